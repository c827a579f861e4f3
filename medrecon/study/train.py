"""Training a prior from files: images in, weights and model card out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from medrecon.compute import GIB, choose_device
from medrecon.errors import BadInput, nearest
from medrecon.files import atomic_file, sha256
from medrecon.prior import store
from medrecon.prior.losses import HIGH, LOW, OBJECTIVES, DenoisingLoss
from medrecon.prior.network import NETWORKS, UNet
from medrecon.prior.precision import BFloat16, faster_precision, step_seconds
from medrecon.prior.precondition import NetworkPrior
from medrecon.prior.train import Plan, settings_of, train
from medrecon.study.card import model_card
from medrecon.study.course import Course
from medrecon.study.images import ImageSet, read_images
from medrecon.study.measures import denoising_psnr, error_curve, kappas
from medrecon.study.modalities import GENERIC, default_field, units_of
from medrecon.study.patches import Patches

NOT_STATED = "subjects that are not stated"
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingRun:
    """What `medrecon train` was asked for. `exclude`/`validate`: subjects (name or name*); validation images make the
    error curve and are not trained on (none given: every tenth subject, at least one where there are three). `field` "":
    that of the modality. `precision` "auto": as a short timing says. Every `report_every` iterations: PSNR and pictures."""

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
    objective: str = "edm"
    network: str = "unet_full"
    precision: str = "auto"
    device: str = "cpu"
    report_every: int = 500

    def __post_init__(self) -> None:
        _one_of("field", self.image_field, ("complex", "real"))
        _one_of("objective", self.objective, tuple(OBJECTIVES))
        _one_of("network", self.network, tuple(NETWORKS))
        _one_of("precision", self.precision, PRECISIONS)
        if self.out.suffix != ".safetensors":
            raise BadInput(f"{self.out}: weights are written as .safetensors: give a name that ends so")

    @property
    def image_field(self) -> str:
        """The field asked for, or that of the modality."""
        return self.field or default_field(self.modality)

    @property
    def checkpoint(self) -> Path:
        """Where it goes on from; gone when the run is complete."""
        return self.out.with_suffix(".checkpoint")

    def command(self) -> str:
        """The shell line that repeats this run."""
        parts = ["medrecon", "train", *(p.name for p in self.data), "-o", self.out.name]
        parts += ["--modality", self.modality, "--field", self.image_field]
        parts += ["--iterations", str(self.iterations), "--batch", str(self.batch), "--patch", str(self.patch)]
        parts += ["--learning-rate", f"{self.learning_rate:g}", "--seed", str(self.seed), "--domain", self.domain]
        for flag, value, usual in (
            ("--objective", self.objective, "edm"),
            ("--network", self.network, "unet_full"),
            ("--precision", self.precision, "auto"),
            ("--device", self.device, "cpu"),
        ):
            parts += [] if value == usual else [flag, value]
        for flag, names in (("--exclude", self.exclude), ("--validate", self.validate)):
            for name in names:
                parts += [flag, name]
        if self.init is not None:
            parts += ["--init", self.init.name]
        return shlex.join(parts)


def _one_of(what: str, text: str, known: tuple[str, ...]) -> None:
    if text not in known:
        raise BadInput(f"{what} {text!r}: expected {' or '.join(known)}{nearest(text, known)}")


@dataclass(frozen=True)
class _Start:
    """All that stands before the first step: images `everything`, those to learn from and to `check` on, and the network."""

    everything: ImageSet
    images: ImageSet
    learn: ImageSet
    check: ImageSet
    network: UNet
    loss: DenoisingLoss
    patches: Patches
    precision: str

    @property
    def half(self) -> bool:
        return self.precision == "bfloat16"


def _start(run: TrainingRun) -> _Start:
    everything = read_images(run.data, run.modality)
    images = everything.without(run.exclude) if run.exclude else everything
    learn, check = _split(images, run.validate)
    network, sigma_data = _initial(run, learn)
    network = network.to(choose_device(run.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss, patches = OBJECTIVES[run.objective](sigma_data), Patches(learn, run.patch, run.batch, run.image_field)
    return _Start(everything, images, learn, check, network, loss, patches, _precision(run, network, loss, patches))


def _precision(run: TrainingRun, network: UNet, loss: DenoisingLoss, patches: Patches) -> str:
    """The precision asked for, that of the run that is gone on with, or the faster one."""
    if run.precision != "auto":
        return run.precision
    if run.checkpoint.exists():
        return settings_of(run.checkpoint).get("precision") or "float32"
    return faster_precision(network, loss, patches(np.random.default_rng(0)).to(next(network.parameters()).device))


def cost(run: TrainingRun) -> str:
    """What the run would take, in a few lines, from reading its images and a few trial steps."""
    start = _start(run)
    device = next(start.network.parameters()).device
    clean = start.patches(np.random.default_rng(0)).to(device)
    seconds = step_seconds(BFloat16(start.network) if start.half else start.network, start.loss, clean)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    parameters = sum(p.numel() for p in start.network.parameters())
    return "\n".join(
        (
            f"{len(start.learn)} images of {len(set(start.learn.subjects))} subjects to learn from, {len(start.check)} to check on",
            f"network {run.network}: {parameters / 1e6:.2f} M parameters, {4 * parameters / 2**20:.1f} MiB, {start.precision} on {device}",
            f"{seconds:.3g} s an iteration, about {run.iterations * seconds / 3600:.2g} h in all, {memory / GIB:.1f} GiB of memory",
        )
    )


def train_from_files(run: TrainingRun, progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Trains (or goes on training: a checkpoint lies beside `out` until the run is complete) and writes `out`.

    Returns the path of the `.safetensors`; beside it lie the model card (.md) and, as long as it trains and after, the
    course (.csv) and sample pictures (.png).
    """
    start = _start(run)
    prior = NetworkPrior(
        start.network, field=run.image_field, sigma_data=start.loss.sigma_data, sigma_range=(LOW, HIGH), units=units_of(run.modality)
    )
    course = Course(run.out, prior, start.check, run.iterations, run.report_every, progress, goes_on=run.checkpoint.exists())
    weights = train(
        start.network,
        start.loss,
        start.patches,
        Plan(run.iterations, run.learning_rate, seed=run.seed),
        run.checkpoint,
        course.report,
        observe=course.observe,
        circumstances=_circumstances(run, start),
        half=start.half,
    )
    start.network.load_state_dict(weights)
    prior.eval().requires_grad_(False)
    facts = _facts(run, start, prior, course.minutes)
    store.save(run.out, weights, facts)
    with atomic_file(run.out.with_suffix(".md"), force=True) as temporary:
        temporary.write_text(model_card(run.out.stem, facts, denoising_psnr(prior, start.check)), encoding="utf-8")
    run.checkpoint.unlink(missing_ok=True)
    return run.out


def _circumstances(run: TrainingRun, start: _Start) -> dict[str, Any]:
    """What must be the same when a run goes on. What is as usual is None, so that checkpoints from before it could be chosen hold."""
    return {
        "field": run.image_field,
        "batch": run.batch,
        "patch": run.patch,
        "init": None if run.init is None else sha256(run.init),
        "images": start.learn.digest,
        "modality": None if run.modality == "mr" else run.modality,
        "objective": None if run.objective == "edm" else run.objective,
        "network": None if run.network == "unet_full" else run.network,
        "precision": None if start.precision == "float32" else start.precision,
        "device": None if run.device == "cpu" else run.device,
    }


def _facts(run: TrainingRun, start: _Start, prior: NetworkPrior, minutes: float) -> dict[str, Any]:
    trained_on = " (trained on as well)" if start.check is start.learn else ""
    return {
        "network": start.network.settings,
        "field": run.image_field,
        "domain": run.domain,
        "units": prior.units.facts(),
        "sigma_data": prior.sigma_data,
        "sigma_range": prior.sigma_range,
        "error_curve": error_curve(prior, start.check),
        "kappas": kappas(start.learn),
        "card": {
            "training subjects": ", ".join(sorted(set(start.learn.subjects))),
            "training images": str(len(start.learn)),
            "validation subjects": ", ".join(sorted(set(start.check.subjects))) + trained_on,
            "never seen": _never_seen(run, set(start.everything.subjects) - set(start.images.subjects)),
            **({} if run.init is None else {"started from": f"{run.init.name}, trained on {_seen_before(run) or NOT_STATED}"}),
            "licence": run.licence,
            "command": run.command(),
            "objective": run.objective,
            "precision": f"{start.precision} on {choose_device(run.device).type}",
            "minutes": f"{minutes:.0f}",
            "seed": str(run.seed),
        },
    }


def _never_seen(run: TrainingRun, apart: set[str]) -> str:
    """The subjects set apart that the weights it started from have not seen either."""
    before = _seen_before(run)
    names = ", ".join(sorted(apart - set(before.split(", ")))) or "none set apart"
    return names if before or run.init is None or not apart else f"{names} (by this run; the weights it started from: {NOT_STATED})"


def _seen_before(run: TrainingRun) -> str:
    """The training subjects in the card of the weights that it started from."""
    return "" if run.init is None else str(store.metadata(run.init).get("card", {}).get("training subjects", ""))


def _initial(run: TrainingRun, learn: ImageSet) -> tuple[UNet, float]:
    """The network to train and its sigma_data: a new one, or that of a prior to go on from."""
    channels = 2 if run.image_field == "complex" else 1
    if run.init is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            return UNet(channels=channels, **NETWORKS[run.network]), round(_rms(learn) / math.sqrt(channels), 3)
    prior = store.load_network(run.init)
    if prior.field != run.image_field:
        raise BadInput(f"{run.init}: a prior of {prior.field} images cannot start one of {run.image_field} images")
    if run.modality != GENERIC and prior.units != units_of(run.modality):
        raise BadInput(f"{run.init}: a prior in units {prior.units.name} cannot start one in {units_of(run.modality).name}")
    network, wanted = prior.network, NETWORKS[run.network]
    assert isinstance(network, UNet)
    if UNet(channels, **wanted).settings != network.settings:
        raise BadInput(f"{run.init}: its network is {network.settings}, --network {run.network} is {wanted}: choose the one that it has")
    return network.requires_grad_(True), prior.sigma_data


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
