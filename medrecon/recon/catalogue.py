"""The table of methods as plain data and as the page docs/methods.md."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from inspect import getdoc
from typing import TYPE_CHECKING, Any

from medrecon.recon.plugins import SAMPLERS, SCHEDULES, Plugins

if TYPE_CHECKING:
    from medrecon.recon.recipe import Recipe

HEAD = """# Methods

Made by `medrecon methods --markdown > docs/methods.md` from the tables in `medrecon/recon/`; do not edit.
Every setting can be given as `--set name=value`, or as a keyword of `medrecon.reconstruct` and `medrecon.solve`. Columns are
presets (`--preset NAME`; several samples take `sample` where there is one, else the first) with all their values; an empty cell: the
preset has no such setting. Rows without code quotes are parts that a preset exchanges. `spread`: factor from the spread of the
draws to the posterior's standard deviation; without it, draws say nothing of uncertainty.

Kinds: a *sampler* draws from the posterior, a *biased* method draws images whose spread is not the posterior's, a *point* method
gives one estimate, a *classical* one needs no prior. *Bias* is measured against an exact posterior (64 numbers, 32 data, condition
10, a 1/f² Gaussian prior, 100 levels, first preset, `sample` where there is one): the error of the mean in posterior standard
deviations, then the ratio of the draws' standard deviation to the posterior's in measured / in unmeasured directions (1 is right).
The full table is docs/exactness.md.
"""

PARTS = {"consistency", "sampler", "iteration", "schedule", "spread", "kind"}
PLUGINS = {f.name for f in fields(Plugins)}


def catalogue(methods: Mapping[str, Recipe]) -> dict[str, dict[str, Any]]:
    """{method: what it is, what it needs, its own settings with defaults, presets}, ready for JSON."""
    return {
        name: {
            "kind": recipe.kind,
            "summary": recipe.summary,
            "reference": recipe.reference,
            "needs": list(recipe.needs),
            "good_for": recipe.good_for,
            "evaluations": recipe.evaluations,
            "bias": None if recipe.bias is None else dict(zip(("mean", "measured", "unmeasured"), recipe.bias, strict=False)),
            "notes": {part.__name__: getdoc(part) or "" for part in _bare(recipe)},
            "settings": _own(recipe.with_preset(recipe.default_preset(1)).settings),
            "presets": {
                preset: {**_own(recipe.with_preset(preset).settings), **_readable_all(recipe.parts.get(preset, {}))}
                for preset in recipe.presets
            },
        }
        for name, recipe in methods.items()
    }


def _bare(recipe: Recipe) -> list[Any]:
    """The classes and functions of all presets, without what is fixed in them."""
    ready = [recipe.with_preset(preset) for preset in recipe.presets or [None]]
    parts = [part for one in ready for part in one.functions()]
    bare = [inspect.unwrap(part.func if isinstance(part, partial) else part) for part in parts]
    return list(dict.fromkeys(bare))


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the plug-ins, which are the same for all."""
    return _readable_all({key: value for key, value in settings.items() if key not in PLUGINS})


def _readable_all(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _readable(value) for key, value in values.items()}


def markdown_page(known: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    rows = [
        f"| [`{name}`](#{name}) | {entry['kind']} | {_bias(entry)} | {entry['evaluations']} | {', '.join(entry['needs']) or 'nothing'} "
        f"| {entry['good_for']} |"
        for name, entry in known.items()
    ]
    table = "\n".join(["| method | kind | bias: mean, spread | NFE a level | needs | good for |", "|---|---|---|---|---|---|", *rows])
    return "\n".join([HEAD, table, *(_chapter(name, entry) for name, entry in known.items()), _plugins(), _preparation()])


def _bias(entry: Mapping[str, Any]) -> str:
    found = entry["bias"]
    if found is None:
        return ""
    return f"{found['mean']:.2f}" + (f", {_times(found['measured'])} / {_times(found['unmeasured'])}" if "measured" in found else "")


def _times(ratio: float) -> str:
    return f"×{ratio:.2f}"


def _chapter(name: str, entry: Mapping[str, Any]) -> str:
    """Rows without code quotes are parts that a preset exchanges, not settings."""
    lines = [f"\n## {name}\n", f"{entry['summary']} Reference: {entry['reference'] or 'none'}.\n"]
    columns = entry["presets"] or {"default": entry["settings"]}
    keys = dict.fromkeys(key for values in columns.values() for key in values)
    settings = {key for values in (entry["settings"], *entry["presets"].values()) for key in values} - PARTS
    lines += ["| setting |" + "".join(f" `{preset}` |" for preset in columns), "|---|" + "---|" * len(columns)]
    for key in keys:
        cells = [f"`{values[key]}`" if key in values else "" for values in columns.values()]
        lines.append(f"| {f'`{key}`' if key in settings else key} |" + "".join(f" {cell} |" for cell in cells))
    for part, text in entry["notes"].items():
        lines += ["", f"`{part}`: {_paragraphs(text)}"]
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    return text.replace("<", "&lt;")


def _plugins() -> str:
    """What all methods with a prior take, in the words of its own docstring."""
    rows = [f"| `{f.name}` | `{f.default}` |" for f in fields(Plugins)]
    names = f"Samplers: {', '.join(SAMPLERS)}. Schedules: {', '.join(SCHEDULES)}."
    return "\n".join(
        [
            f"\n## Plug-ins\n\nTaken by every method with a prior.\n\n{getdoc(Plugins)}\n\n{names}\n",
            "| setting | default |",
            "|---|---|",
            *rows,
        ]
    )


def _preparation() -> str:
    """What all methods take for a modality, in the words of its own docstring."""
    from medrecon.physics.ct.prepare import Preparation as OfCT
    from medrecon.physics.mri.prepare import Preparation as OfMRI

    lines = []
    for modality, settings in (("MRI", OfMRI), ("CT", OfCT)):
        told = (getdoc(settings) or "").replace("<", "&lt;")
        lines += [f"\n## Preparation of {modality} scans\n\nTaken by every method.\n\n{told}\n", "| setting | default |", "|---|---|"]
        lines += [f"| `{f.name}` | `{f.default}` |" for f in fields(settings) if f.name in settings.named()]
    return "\n".join(lines)


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
