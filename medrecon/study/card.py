"""The model card of a trained prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medrecon.prior.units import Units

PHASE = "Magnitude images were given a smooth synthetic phase; no raw data were trained on.\n\n"


def model_card(name: str, facts: Mapping[str, Any], psnr: Mapping[float, float]) -> str:
    """Markdown: what it is, data and licence, how to repeat it, figures, error curve, limits."""
    rows = "\n".join(f"| {s:g} | {-20 * np.log10(s):.2f} | {p:.2f} |" for s, p in psnr.items())
    curve = "\n".join(f"| {s:.4g} | {e:.4g} |" for s, e in facts["error_curve"])
    card = "\n".join(f"- **{key}**: {value}" for key, value in facts["card"].items())
    is_complex = facts["field"] == "complex"
    return f"""# Prior `{name}`

A denoiser of {facts["field"]} 2-D images (domain: {facts["domain"]}) for noise levels {facts["sigma_range"][0]} to
{facts["sigma_range"][1]} per real component, in units where {_scale(Units.of(facts["units"]))}.
Network: {facts["network"]}, EDM preconditioning with sigma_data {facts["sigma_data"]}.

{card}

{PHASE if is_complex else ""}## Denoising on the validation subjects (PSNR in dB per real component, peak 1)

| sigma | noisy | denoised |
|---|---|---|
{rows}

## Error curve r²(sigma) on the validation subjects

| sigma | mean squared error |
|---|---|
{curve}

{_ratio(facts["kappas"])}## Limits

It knows the contrasts and the anatomy of its training subjects{" and smooth phases" if is_complex else ""}. Anything else
(pathology, implants, other organs{", strong phase" if is_complex else ""}) is out of its domain: look at the residual and at an
independent reconstruction.
"""


def _scale(units: Units) -> str:
    """What 1 is, in words."""
    if not units.physical:
        return "the 99.5th percentile of the magnitude is 1"
    offset = f"{'+' if units.offset < 0 else '-'} {abs(units.offset):g}"
    return f"x = ({units.name} {offset}) / {units.gain:g}, clipped to {units.low:g} to {units.high:g}"


def _ratio(kappas: list[list[float]]) -> str:
    pairs = ", ".join(f"{int(a)}: {b:g}" for a, b in kappas)
    return f"Brightness kappa of bright tissue seen through a k-space centre of n x n, n: kappa = {pairs}.\n\n" if kappas else ""
