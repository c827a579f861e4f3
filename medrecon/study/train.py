"""Training a prior from files: images in, weights and model card out."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.files import atomic_file, sha256
from medrecon.linop.fourier import fft, ifft
from medrecon.prior import store
from medrecon.prior.losses import DenoisingLoss
from medrecon.prior.network import UNET_FULL, UNet
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.train import Plan, train
from medrecon.prior.units import Units
from medrecon.study.images import ImageSet, read_images, with_phase
from medrecon.study.modalities import default_field, units_of
from medrecon.study.patches import Patches
from medrecon.tensors import centre_crop, centre_pad, generator_for, quantile, unit_noise

SIGMA_RANGE = (0.002, 20.0)
CURVE_SIGMAS = np.geomspace(0.01, 20.0, 16)
CARD_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
CALIB_LINES = (8, 12, 16, 20, 24, 32)


@dataclass(frozen=True)
class TrainingRun:
    """What `medrecon train` was asked for. `exclude`/`validate`: subjects (name or name*); validation images make the
    error curve and are not trained on (none given: every tenth subject, at least one where there are three). `field` "":
    that of the modality."""

    data: Sequence[Path]
    out: Path
    modality: str = "mr"
    field: str = ""
    iterations: int = 20000
    batch: int = 16
    patch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    init: Path | None = None
    exclude: Sequence[str] = ()
    validate: Sequence[str] = ()
    domain: str = "custom"
    licence: str = "not stated"

    def __post_init__(self) -> None:
        natural = default_field(self.modality)
        object.__setattr__(self, "field", self.field or natural)
        if self.field not in ("complex", "real"):
            raise BadInput(f"field {self.field!r}: expected complex or real")
        if self.out.suffix != ".safetensors":
            raise BadInput(f"{self.out}: weights are written as .safetensors: give a name that ends so")

    def command(self) -> str:
        """The shell line that repeats this run."""
        parts = ["medrecon", "train", *(p.name for p in self.data), "-o", self.out.name]
        parts += ["--modality", self.modality, "--field", self.field]
        parts += ["--iterations", str(self.iterations), "--batch", str(self.batch), "--patch", str(self.patch)]
        parts += ["--learning-rate", f"{self.learning_rate:g}", "--seed", str(self.seed), "--domain", self.domain]
        for flag, names in (("--exclude", self.exclude), ("--validate", self.validate)):
            for name in names:
                parts += [flag, name]
        if self.init is not None:
            parts += ["--init", self.init.name]
        return shlex.join(parts)


def train_from_files(run: TrainingRun, progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Trains (or goes on training: a checkpoint lies beside `out` until the run is complete) and writes `out`.

    Returns the path of the `.safetensors`; the model card lies beside it as `.md`.
    """
    everything = read_images(run.data, run.modality)
    images = everything.without(run.exclude) if run.exclude else everything
    learn, check = _split(images, run.validate)
    channels = 2 if run.field == "complex" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = UNet(channels=channels, **UNET_FULL)  # type: ignore[arg-type]
    sigma_data = round(_rms(learn) / math.sqrt(channels), 3)
    if run.init is not None:
        network, sigma_data = _initial(run.init, run.field)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = Plan(run.iterations, run.learning_rate, seed=run.seed)
    patches = Patches(learn, run.patch, run.batch, run.field)
    checkpoint = run.out.with_suffix(".checkpoint")
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if progress is not None:
            progress(step, run.iterations, f"loss {loss:.4f}")

    circumstances = {
        "field": run.field,
        "batch": run.batch,
        "patch": run.patch,
        "init": None if run.init is None else sha256(run.init),
        "images": learn.digest,
        # Left out for the first modality, so that its older checkpoints go on.
        "modality": None if run.modality == "mr" else run.modality,
    }
    weights = train(network, DenoisingLoss(sigma_data), patches, plan, checkpoint, report, circumstances=circumstances)
    minutes = (time.monotonic() - start) / 60
    network.load_state_dict(weights)
    prior = NetworkPrior(
        network.eval().requires_grad_(False),
        field=run.field,
        sigma_data=sigma_data,
        sigma_range=SIGMA_RANGE,
        units=units_of(run.modality),
    )
    curve = error_curve(prior, check)
    facts = {
        "network": network.settings,
        "field": run.field,
        "domain": run.domain,
        "units": prior.units.facts(),
        "sigma_data": sigma_data,
        "sigma_range": SIGMA_RANGE,
        "error_curve": curve,
        "kappas": kappas(learn),
        "card": {
            "training subjects": ", ".join(sorted(set(learn.subjects))),
            "training images": str(len(learn)),
            "validation subjects": ", ".join(sorted(set(check.subjects))) + ("" if check is not learn else " (trained on as well)"),
            "never seen": ", ".join(sorted(set(everything.subjects) - set(images.subjects))) or "none set apart",
            "licence": run.licence,
            "command": run.command(),
            "minutes": f"{minutes:.0f}",
            "seed": str(run.seed),
        },
    }
    store.save(run.out, weights, facts)
    with atomic_file(run.out.with_suffix(".md"), force=True) as temporary:
        temporary.write_text(model_card(run.out.stem, facts, denoising_psnr(prior, check)), encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return run.out


def _initial(path: Path, field: str) -> tuple[UNet, float]:
    """The network of a prior to go on from, and its sigma_data."""
    prior = store.load(path)
    if prior.field != field:
        raise BadInput(f"{path}: a prior of {prior.field} images cannot start one of {field} images")
    assert isinstance(prior.network, UNet)
    return prior.network.requires_grad_(True), prior.sigma_data


def _split(images: ImageSet, validate: Sequence[str]) -> tuple[ImageSet, ImageSet]:
    """Training and validation images, no subject in both (but for one or two subjects, which are in both)."""
    if not len(images):
        raise BadInput("every subject is excluded: leave some to train on")
    names = list(validate)
    if not names:
        every = sorted(set(images.subjects))
        names = every[::10] if len(every) >= 3 else []
    if not names:  # one or two subjects: the curve can only come from what was trained on, and the card says so
        return images, images
    learn, check = images.without(names), images.only(names)
    if not len(learn):
        raise BadInput("every subject is set apart for validation: leave some to train on")
    return learn, check


def _rms(images: ImageSet) -> float:
    squares = [float(np.square(images.clipped(i)).mean()) for i in range(0, len(images), 7)]
    return float(np.sqrt(np.mean(squares)))


def _examples(prior: NetworkPrior, images: ImageSet, count: int) -> list[Tensor]:
    chosen = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    raw = [images.clipped(int(i)) for i in chosen]
    return [with_phase(a, int(i)) if prior.field == "complex" else torch.from_numpy(a) for i, a in zip(chosen, raw, strict=True)]


@torch.no_grad()
def error_curve(prior: NetworkPrior, images: ImageSet, count: int = 12) -> list[list[float]]:
    """Pairs (sigma, mean squared error per real component) over whole images, seeded."""
    examples = _examples(prior, images, count)
    return [[float(s), _squared_error(prior, examples, float(s))] for s in CURVE_SIGMAS]


@torch.no_grad()
def denoising_psnr(prior: NetworkPrior, images: ImageSet, count: int = 12) -> dict[float, float]:
    """sigma -> PSNR in dB per real component, peak 1, over whole images."""
    examples = _examples(prior, images, count)
    return {s: float(-10 * np.log10(_squared_error(prior, examples, s))) for s in CARD_SIGMAS}


def _squared_error(prior: NetworkPrior, examples: Sequence[Tensor], sigma: float) -> float:
    total = 0.0
    for i, clean in enumerate(examples):
        noise = unit_noise(clean.shape, clean.dtype, generator_for(i, "error curve", f"{sigma:.4g}"))
        residual = prior.denoise((clean + sigma * noise)[None], torch.tensor(sigma))[0] - clean
        parts = torch.view_as_real(residual) if residual.is_complex() else residual
        total += float(parts.double().square().mean())
    return total / len(examples)


def kappas(images: ImageSet) -> list[list[float]]:
    """Pairs (lines, kappa) from the images without a physical scale; none where all have one."""
    relative = images.chosen(i for i in range(len(images)) if not images.kind(i).units.physical)
    return [[n, kappa(relative, n)] for n in CALIB_LINES] if len(relative) else []


def kappa(images: ImageSet, lines: int, count: int = 24) -> float:
    """Mean ratio of the 99.5th percentiles of the images seen through a k-space centre of lines x lines and of the images."""
    chosen = np.unique(np.linspace(0, len(images) - 1, count).round().astype(int))
    ratios = []
    for i in chosen:
        image = with_phase(images.images[i].astype(np.float32), int(i))
        side = [min(lines, n) for n in image.shape]
        low = ifft(centre_pad(centre_crop(fft(image, (-2, -1)), side), image.shape), (-2, -1)).abs()
        ratios.append(float(quantile(low, 0.995) / quantile(image.abs(), 0.995)))
    return round(float(np.mean(ratios)), 4)


def model_card(name: str, facts: Mapping[str, Any], psnr: Mapping[float, float]) -> str:
    """Markdown: what it is, data and licence, how to repeat it, figures, error curve, limits."""
    rows = "\n".join(f"| {s:g} | {-20 * np.log10(s):.2f} | {p:.2f} |" for s, p in psnr.items())
    curve = "\n".join(f"| {s:.4g} | {e:.4g} |" for s, e in facts["error_curve"])
    lines = ", ".join(f"{int(a)}: {b:g}" for a, b in facts["kappas"])
    kappas = f"Ratio kappa of the 99.5th percentile seen through a k-space centre of n x n, n: kappa = {lines}.\n\n" if lines else ""
    card = "\n".join(f"- **{key}**: {value}" for key, value in facts["card"].items())
    phase = "Magnitude images were given a smooth synthetic phase; no raw data were trained on.\n\n" if facts["field"] == "complex" else ""
    return f"""# Prior `{name}`

A denoiser of {facts["field"]} 2-D images (domain: {facts["domain"]}) for noise levels {facts["sigma_range"][0]} to
{facts["sigma_range"][1]} per real component, in units where {_scale(Units.of(facts["units"]))}.
Network: {facts["network"]}, EDM preconditioning with sigma_data {facts["sigma_data"]}.

{card}

{phase}## Denoising on the validation subjects (PSNR in dB per real component, peak 1)

| sigma | noisy | denoised |
|---|---|---|
{rows}

## Error curve r²(sigma) on the validation subjects

| sigma | mean squared error |
|---|---|
{curve}

{kappas}## Limits

It knows the contrasts and the anatomy of its training subjects{" and smooth phases" if facts["field"] == "complex" else ""}. Anything
else (pathology, implants, other organs, strong phase) is out of its domain: look at the residual and at an independent reconstruction.
"""


def _scale(units: Units) -> str:
    """What 1 is, in words."""
    if not units.physical:
        return "the 99.5th percentile of the magnitude is 1"
    return f"x = (value - ({units.offset:g})) / {units.gain:g} for values in {units.name}, clipped to {units.low:g} to {units.high:g}"
