"""A reconstruction told on one page: a self-contained HTML file with pictures, facts, settings and warnings."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from medrecon.errors import BadInput
from medrecon.files import atomic_file
from medrecon.recon.figures import curve, tiles, window
from medrecon.volume import Volume

FACTS = {
    "method": "Method",
    "preset": "Preset",
    "reference": "Published in",
    "prior": "Prior",
    "samples": "Samples drawn",
    "seed": "Seed",
    "noise_std": "Noise (std per real component)",
    "noise_source": "Noise measured from",
    "chi2": "χ² per datum (1: explained down to the noise)",
    "scale": "Scale",
    "device": "Device",
    "seconds": "Time, s",
}
"""Log entries that everybody wants first, with their names for people."""


def write_report(
    path: str | os.PathLike[str],
    volume: Volume,
    log: Mapping[str, Any],
    *,
    std: Volume | None = None,
    reference: Volume | None = None,
    title: str = "Reconstruction",
    force: bool = False,
) -> Path:
    """Writes the report of a volume and of the run that made it (`log`); the path.

    `std`: standard deviation of |image| over samples. `reference`: the truth, on the same grid, for an error map and
    numbers. Raises `BadInput` when their shapes differ from the volume's.
    """
    for name, other in (("std", std), ("reference", reference)):
        if other is not None and other.grid.shape != volume.grid.shape:
            raise BadInput(f"{name} has shape {other.grid.shape} (z, y, x), the volume {volume.grid.shape}: give one of the same grid")
    body = [_header(title, volume), _warnings(log, volume), _image(volume)]
    if std is not None:
        body.append(_uncertainty(volume, std))
    if reference is not None:
        body.append(_error(volume, reference))
    body += [_facts(log), _residual(log, volume.grid.shape[0]), _settings(log), _geometry(volume), _provenance(volume, log), FOOTER]
    with atomic_file(path, force) as temporary:
        temporary.write_text(PAGE.format(title=escape(title), body="\n".join(body)), "utf-8")
    return Path(path)


def _header(title: str, volume: Volume) -> str:
    nz, ny, nx = volume.grid.shape
    dz, dy, dx = volume.spacing
    line = f"{volume.modality}, {nz} slices of {ny} × {nx}, voxels {dz:.3g} × {dy:.3g} × {dx:.3g} mm (z, y, x)"
    return f"<header><h1>{escape(title)}</h1><p>{escape(line)}</p></header>"


def _warnings(log: Mapping[str, Any], volume: Volume) -> str:
    texts = [str(text) for text in log.get("warnings", [])]
    if volume.orientation == "unknown":
        texts.append("The orientation in the patient is unknown: rows and columns are shown as stored, left and right cannot be told.")
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warn"><h2>Warnings</h2><ul>{items}</ul></section>' if texts else ""


def _image(volume: Volume) -> str:
    low, high = window(volume)
    text = f"Magnitude, grey values {low:.3g} to {high:.3g} ({escape(volume.units)}), one window for all slices."
    return _section("Image", _picture(tiles(volume, (low, high)), "slices of the reconstruction") + f"<p>{text}</p>")


def _uncertainty(volume: Volume, std: Volume) -> str:
    """The std in per cent of white, so that it reads the same whatever the scanner's units are."""
    white = window(volume)[1]
    percent = replace(std, image=std.magnitude.image * (100 / white))
    limit = max(window(percent)[1], 1e-3)
    picture = tiles(percent, (0.0, limit), colours="magma", bar="% of white")
    text = (
        f"Standard deviation of the magnitude over the samples, in per cent of the image's white; "
        f"mean {float(percent.image.mean()):.2g} %, largest {float(percent.image.max()):.2g} %. "
        "It shows what data and prior together leave open. It cannot show what the prior has never seen."
    )
    return _section("Uncertainty", _picture(picture, "standard deviation over samples") + f"<p>{text}</p>")


def _error(volume: Volume, reference: Volume) -> str:
    image, truth = volume.magnitude.image.float(), reference.magnitude.image.float().to(volume.image.device)
    image = image.reshape(-1, *volume.grid.shape)[0]
    truth = truth.reshape(-1, *volume.grid.shape)[0]
    error = image - truth
    nmse = float((error**2).sum() / (truth**2).sum())
    psnr = float(10 * torch.log10(truth.max() ** 2 / (error**2).mean()))
    white = window(reference)[1]
    limit = max(float(error.abs().quantile(0.999)) if error.numel() < 1e7 else white / 10, 1e-6 * white) * 100 / white
    shown = replace(reference, image=error * (100 / white))
    picture = _signed(shown, limit)
    text = (
        f"Image minus reference, in per cent of the reference's white. NMSE {nmse:.4g}, PSNR {psnr:.2f} dB (peak: the reference's maximum)."
    )
    return _section(
        "Against the reference",
        _picture(tiles(reference), "slices of the reference") + _picture(picture, "image minus reference") + f"<p>{text}</p>",
    )


def _signed(difference: Volume, limit: float) -> bytes:
    return tiles(difference, (-limit, limit), colours="RdBu_r", bar="% of white")


def _facts(log: Mapping[str, Any]) -> str:
    return _section("What was done", _table({title: log[name] for name, title in FACTS.items() if log.get(name) is not None}))


def _residual(log: Mapping[str, Any], n_slices: int) -> str:
    """χ² of every solved image, where the log has it: one that stands out has another artefact or another noise."""
    values = log.get("chi2_per_slice")
    if not isinstance(values, list) or len(values) < 2:
        return ""
    item = "slice" if len(values) == n_slices else "solved image (slices and samples)"
    picture = curve([float(v) for v in values], "χ² per datum", item, expected=1.0)
    text = f"<p>χ² per datum of each {item}. Far above 1: the image does not explain the data. Far below: noise has been fitted.</p>"
    return _section("Residual", _picture(picture, "chi squared of each slice") + text)


def _settings(log: Mapping[str, Any]) -> str:
    settings = log.get("settings")
    return _section("Settings", _table(settings)) if isinstance(settings, Mapping) and settings else ""


def _geometry(volume: Volume) -> str:
    codes = volume.grid.axis_codes if volume.orientation == "known" else "unknown"
    rows = {"Index axes x, y, z point to": codes} | {
        f"Affine row {i + 1} (voxel to RAS, mm)": "  ".join(f"{v:.4f}" for v in row) for i, row in enumerate(volume.affine[:3])
    }
    return _section("Place in the patient", _table(rows))


def _provenance(volume: Volume, log: Mapping[str, Any]) -> str:
    told = (*FACTS, "settings", "warnings", "chi2_per_slice")
    rest = {name: value for name, value in {**volume.provenance, **log}.items() if name not in told}
    return _section("Where it came from", _table(rest)) if rest else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _picture(png: bytes, words: str) -> str:
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(str(name))}</th><td>{_cell(value)}</td></tr>" for name, value in values.items())
    return f"<table>{rows}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return _table(value) if value else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        cells = [_cell(item) for item in value[:20]]
        return ", ".join(cells) + (f", … ({len(value)})" if len(value) > 20 else "")
    return "none" if value is None else escape(str(value))


FOOTER = "<footer>Made by medrecon. For research; not a medical device, not for diagnosis.</footer>"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1c2329; background: #f4f6f7; margin: 0 }}
header {{ background: #101418; color: #fff; padding: 1.2rem 2rem }}
header h1 {{ margin: 0; font-size: 1.5rem }} header p {{ margin: .2rem 0 0; color: #b8c4cc }}
section {{ background: #fff; margin: 1rem auto; padding: 1rem 1.5rem; max-width: 1240px; border-radius: 6px; box-sizing: border-box }}
h2 {{ margin: 0 0 .6rem; font-size: 1.1rem }} img {{ max-width: 100%; display: block; margin: 0 auto .6rem; border-radius: 4px }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; overflow-wrap: anywhere }}
th {{ font-weight: 500; color: #51616c; white-space: nowrap }} td {{ font-variant-numeric: tabular-nums }}
.warn {{ border-left: 6px solid #d98e04; background: #fff8e8 }} footer {{ text-align: center; color: #6a7a85; padding: 1rem }}
</style></head><body>
{body}
</body></html>
"""
