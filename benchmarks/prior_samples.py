"""What a prior imagines: samples without any data, and samples from noisy held-out images, beside the nearest training slices.

    python benchmarks/prior_samples.py NAME [--data FOLDER] [--out runs/prior_samples] [--samples 6] [--steps 60] [--side 256]
                                       [--picture docs/prior_samples_NAME.png] [--from-sigma 0.5] [--device cpu]

FOLDER holds the archives `test_mr.npz`, `train_mr.npz`, ... (images (n, y, x), subject). Unconditional: the prior's own ancestral
sampler from noise of the largest sigma that it knows. From sigma 0.5: the same from held-out images with that much noise. Beside
each the training slice that correlates best: magnitudes, seen at 64 x 64 pixels, mean removed, the largest correlation over the
eight flips and turns and over all shifts (circular).

Is anything memorised? A copy of a training slice would correlate far better with its nearest slice than images of new patients do
with theirs. So the numbers of samples stand beside those of held-out images, and beside those of training slices with the
nearest slice of another subject. Neighbouring slices of one subject are alike, therefore "next" is the best of any other subject:
what is memorised has a nearest slice far ahead of the next.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import Example, held_out, trained_on
from torch import Tensor

from medrecon.iterate import run
from medrecon.prior import store
from medrecon.prior.denoiser import Prior
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import ancestral
from medrecon.tensors import generator_for, seeded_draw, unit_noise

SEEN_SIDE = 64
LOWEST = 0.005
"""The last noise level before 0: below it nothing of an image changes that anybody could see."""
MARGIN = 0.05
"""How much better than any held-out image a sample must correlate with a training slice to be called a copy."""


def sampled(prior: Prior, start: Tensor, sigma: float, steps: int, keys: list[object]) -> Tensor:
    """The samples (n, y, x) that the prior draws from noisy images at this noise level."""
    draw = seeded_draw(0, keys, (len(start),))
    levels = edm_levels(steps, sigma, max(LOWEST, prior.sigma_range[0]))
    with torch.no_grad():
        return run(ancestral(prior, start, levels, draw)).x


def unconditional(prior: Prior, count: int, side: int, steps: int, device: str) -> Tensor:
    """Samples from pure noise of the largest level that the prior knows."""
    kind = torch.complex64 if prior.field == "complex" else torch.float32
    sigma = prior.sigma_range[1]
    start = sigma * unit_noise((count, side, side), kind, generator_for(0, "unconditional"))
    return sampled(prior, start.to(device), sigma, steps, list(range(count))).cpu()


def from_images(prior: Prior, examples: list[Example], sigma: float, steps: int, device: str) -> Tensor:
    """A sample from each image plus noise: what the prior makes of what is left of it."""
    found = []
    for example in examples:  # one by one, since they differ in size
        noise = unit_noise(example.clean.shape, example.clean.dtype, generator_for(0, "from", example.name))
        start = (example.clean + sigma * noise)[None].to(device)
        found.append(sampled(prior, start, sigma, steps, [example.name])[0].cpu())
    return torch.stack(found)


@dataclass(frozen=True)
class Near:
    """The nearest training slice, its correlation, and that of the best slice of any other subject."""

    index: int
    correlation: float
    of_next: float


class Gallery:
    """Training slices that are looked through."""

    def __init__(self, images: np.ndarray, names: list[str]) -> None:
        self.images, self.names = images, names
        self.people = np.array([person(name) for name in names])
        self.spectra = torch.fft.rfft2(seen(torch.from_numpy(images))).conj()

    def nearest(self, image: Tensor, without: str = "") -> Near:
        """Over flips, turns and shifts; slices of the person `without` are passed over."""
        best = torch.full((len(self.images),), -1.0)
        small = seen(image.abs()[None] if image.is_complex() else image[None])[0]
        for turns in range(4):
            for flipped in (False, True):
                view = torch.rot90(small.flip(-1) if flipped else small, turns, (-2, -1))
                at_all_shifts = torch.fft.irfft2(self.spectra * torch.fft.rfft2(view), s=view.shape)
                best = torch.maximum(best, at_all_shifts.amax((-2, -1)))
        best[torch.from_numpy(self.people == without)] = -1
        index = int(best.argmax())
        others = best[torch.from_numpy((self.people != self.people[index]) & (self.people != without))]
        return Near(index, float(best[index]), float(others.max()) if len(others) else float("nan"))


def person(name: str) -> str:
    """Whose image it is, from `subject_contrast_scan/number`: another contrast of the same head is no other head."""
    return re.sub(r"_(T1w|T1wGd|T2w|T2star|FLAIR)(_s\d+)?$", "", name.rpartition("/")[0])


def seen(images: Tensor) -> Tensor:
    """(n, y, x) at 64 x 64 pixels without their mean, of norm 1."""
    small = torch.nn.functional.interpolate(images[:, None], (SEEN_SIDE, SEEN_SIDE), mode="area")[:, 0]
    small = small - small.mean((-2, -1), keepdim=True)
    return small / small.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-12)


def summary(found: dict[str, list[Near]]) -> dict[str, Any]:
    """Correlations of each kind of image, and the verdict on memory."""
    numbers: dict[str, dict[str, Any]] = {
        kind: {
            "nearest": [round(near.correlation, 3) for near in nears],
            "mean": round(float(np.mean([near.correlation for near in nears])), 3),
            "largest": round(max(near.correlation for near in nears), 3),
            "lead over the next subject": round(float(np.nanmean([near.correlation - near.of_next for near in nears])), 3),
        }
        for kind, nears in found.items()
        if nears
    }
    limit = max((numbers[kind]["largest"] for kind in ("held out", "other subjects") if kind in numbers), default=1.0) + MARGIN
    copies = [kind for kind in ("unconditional", "from noise") if kind in numbers and numbers[kind]["largest"] > limit]
    return {"correlations": numbers, "copies": copies, "limit": round(limit, 3)}


def picture(rows: list[tuple[str, list[tuple[str, Tensor]]]], target: Path) -> None:
    """Rows of titled images."""
    from matplotlib.figure import Figure

    width = max(len(images) for _, images in rows)
    figure = Figure(figsize=(1.9 * width, 2.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (label, images) in zip(axes, rows, strict=True):
        for k, (axis, (title, image)) in enumerate(zip(line, images, strict=False)):
            shown = image.abs() if image.is_complex() else image
            axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=max(float(np.quantile(shown.numpy(), 0.998)), 1e-6))
            axis.set_title(f"{label}\n{title}" if k == 0 else f"\n{title}", fontsize=6, loc="left")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130, metadata={"Software": None})


def shown_near(gallery: Gallery, nears: list[Near]) -> list[tuple[str, Tensor]]:
    return [(f"{gallery.names[n.index]} {n.correlation:.2f}", torch.from_numpy(gallery.images[n.index])) for n in nears]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="brain")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDRECON_SHARED", "../shared")) / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/prior_samples"))
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--from-sigma", type=float, default=0.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if not (options.data / "test_mr.npz").is_file():
        print(f"skipped: no held-out images in {options.data} (give --data FOLDER)")
        return
    prior = store.load(options.name).to(options.device)
    gallery = Gallery(*trained_on(options.data, prior))
    examples = list(held_out(options.data, prior, options.samples))
    free = unconditional(prior, options.samples, options.side, options.steps, options.device)
    guided = from_images(prior, examples, options.from_sigma, options.steps, options.device)
    known = np.unique(np.linspace(0, len(gallery.images) - 1, max(8, options.samples)).round().astype(int))
    found = {
        "unconditional": [gallery.nearest(image) for image in free],
        "from noise": [gallery.nearest(image) for image in guided],
        "held out": [gallery.nearest(example.clean) for example in examples],
        "other subjects": [gallery.nearest(torch.from_numpy(gallery.images[k]), str(gallery.people[k])) for k in known],
    }
    facts = {
        "prior": options.name,
        "steps": options.steps,
        "side": options.side,
        "from sigma": options.from_sigma,
        "training slices": len(gallery.names),
        **summary(found),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({"unconditional": free, "from noise": guided, "names": [e.name for e in examples]}, options.out / f"{options.name}.pt")
    (options.out / f"{options.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))
    rows = [
        ("no data", [(f"sample {k}", image) for k, image in enumerate(free)]),
        ("nearest training slice", shown_near(gallery, found["unconditional"])),
        ("held out", [(e.name.partition("/")[2], e.clean) for e in examples]),
        (f"sample from it at sigma {options.from_sigma:g}", [("", image) for image in guided]),
        ("nearest training slice", shown_near(gallery, found["from noise"])),
    ]
    picture(rows, options.picture or options.out / f"{options.name}.png")


if __name__ == "__main__":
    main()
