"""The table of methods as plain data and as the page docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrecon.recon.recipes import Recipe

HEAD = """# Methods

Made by `medrecon methods --markdown > docs/methods.md` from the table in `medrecon/recon/recipes.py`; do not edit.
Every setting can be given as `--set name=value`, or as a keyword of `medrecon.reconstruct`. Columns after the default are presets
(`--preset NAME`; several samples take `sample` where there is one, else the first) with all their values; an empty cell: the preset
has no such setting. Rows without code quotes are parts that a preset exchanges. `spread`: factor from the spread of the draws to the
posterior's standard deviation; without it, draws say nothing of uncertainty.
"""


def catalogue(methods: Mapping[str, Recipe]) -> dict[str, dict[str, Any]]:
    """{method: what it is, what it needs, settings with their defaults, presets}, ready for JSON."""
    return {
        name: {
            "kind": recipe.kind,
            "summary": recipe.summary,
            "reference": recipe.reference,
            "needs": list(recipe.needs),
            "settings": {key: _readable(value) for key, value in recipe.settings.items()},
            "presets": {
                preset: {key: _readable(value) for key, value in {**values, **recipe.parts.get(preset, {})}.items()}
                for preset, values in ((name, recipe.with_preset(name).settings) for name in recipe.presets)
            },
        }
        for name, recipe in methods.items()
    }


def markdown_page(known: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page. Rows without code quotes are parts that a preset exchanges, not settings."""
    rows = [
        f"| [`{name}`](#{name}) | {entry['kind']} | {', '.join(entry['needs']) or 'nothing'} | {entry['summary']} |"
        for name, entry in known.items()
    ]
    table = "\n".join(["| method | kind | needs | summary |", "|---|---|---|---|", *rows])
    return "\n".join([HEAD, table, *(_chapter(name, entry) for name, entry in known.items()), _preparation()])


def _chapter(name: str, entry: Mapping[str, Any]) -> str:
    lines = [f"\n## {name}\n", f"{entry['summary']} Reference: {entry['reference'] or 'none'}.\n"]
    if entry["settings"]:
        lines += ["| setting | default |" + "".join(f" `{preset}` |" for preset in entry["presets"])]
        lines += ["|---|---|" + "---|" * len(entry["presets"])]
        parts = {key: "" for values in entry["presets"].values() for key in values if key not in entry["settings"]}
        for key, value in {**entry["settings"], **parts}.items():
            cells = [f"`{values[key]}`" if key in values else "" for values in entry["presets"].values()]
            shown = "" if key in parts else f"`{value}`"
            lines.append(f"| {key if key in parts else f'`{key}`'} | {shown} |" + "".join(f" {cell} |" for cell in cells))
    else:
        lines.append("No settings.")
    return "\n".join(lines)


def _preparation() -> str:
    """What all MRI methods take, in the words of its own docstring."""
    from dataclasses import fields
    from inspect import getdoc

    from medrecon.physics.mri.prepare import Preparation

    rows = [f"| `{f.name}` | `{f.default}` |" for f in fields(Preparation) if f.name in Preparation.named()]
    text = (getdoc(Preparation) or "").replace("<", "&lt;")
    return "\n".join([f"\n## Preparation of MRI scans\n\nTaken by every method.\n\n{text}\n", "| setting | default |", "|---|---|", *rows])


def _readable(value: object) -> Any:
    """Numbers, texts and lists stay; a function is shown by its name, with the arguments that are fixed."""
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    if isinstance(value, partial):
        fixed = ", ".join(f"{name}={_readable(argument)}" for name, argument in value.keywords.items())
        return f"{_readable(value.func)}({fixed})"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value if value is None or isinstance(value, bool | int | str) else getattr(value, "__name__", str(value))
