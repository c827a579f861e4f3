"""Where the numbers of the handcrafted priors come from: strength of total variation, error curves, time.

    python benchmarks/handcrafted.py [strength | curves | time]

Images of unit standard deviation per real component: the Shepp-Logan phantom, ellipses at random, and Gaussian fields with
power spectra k^-2 and k^-3; complex ones have a smooth phase. Series: three of them with time courses of their own behind
an edge that moves.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medrecon.physics.phantom import Ellipse, ellipse_image, shepp_logan
from medrecon.prior import Prior, StationaryGaussian
from medrecon.prior.handcrafted import BY_NAME, TotalVariationPrior
from medrecon.tensors import generator_for, unit_noise

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0)
SIZE = 128


def standard(image: Tensor) -> Tensor:
    power = image.abs().square().mean() / (2 if image.is_complex() else 1)
    return image / power.sqrt()


def field(size: int, slope: float, dtype: torch.dtype, name: str) -> Tensor:
    """A stationary Gaussian field with the power spectrum (1 + k^2)^(-slope / 2)."""
    k = torch.fft.fftfreq(size, dtype=torch.float64) * size
    spectrum = (1 + k[:, None] ** 2 + k**2) ** (-slope / 2)
    mean = torch.zeros(size, size, dtype=dtype)
    return standard(StationaryGaussian(mean, spectrum.float()).sample(unit_noise(mean.shape, dtype, generator_for(0, name))))


def ellipses(size: int, count: int = 25) -> Tensor:
    draw = torch.rand(count, 6, generator=generator_for(0, "ellipses"), dtype=torch.float64)
    found = [
        Ellipse(v - 0.5, (0.6 * y - 0.3, 0.6 * x - 0.3), (0.2 * a + 0.02, 0.2 * b + 0.02), 3 * t) for v, y, x, a, b, t in draw.tolist()
    ]
    return ellipse_image(tuple(found), (size, size)).float()


def images(kind: str, size: int = SIZE) -> dict[str, Tensor]:
    """By name, (y, x), real or complex."""
    flat = {"phantom": ellipse_image(shepp_logan(), (size, size)).float(), "ellipses": ellipses(size)}
    dtype = torch.complex64 if kind == "complex" else torch.float32
    if kind == "complex":
        flat = {name: torch.polar(image.abs(), 1.2 * field(size, 4, torch.float32, f"phase {name}")) for name, image in flat.items()}
    fields = {f"k^-{slope}": field(size, slope, dtype, f"texture {slope}") for slope in (2, 3)}
    return {name: standard(image) for name, image in {**flat, **fields}.items()}


def series(kind: str, size: int = 96, count: int = 16) -> dict[str, Tensor]:
    """(t, y, x): three images with constant, periodic and decaying courses behind a moving edge."""
    first, second, third, fourth = images(kind, size).values()
    t = torch.linspace(0, 1, count)[:, None, None]
    rows = (torch.arange(size) / size)[:, None]
    edge = torch.sigmoid((rows - 0.5 - 0.1 * torch.sin(2 * math.pi * t)) * size / 2)
    both = {"phantom": first, "texture": fourth}
    return {k: standard((v + second * torch.sin(2 * math.pi * t) + third / 2 * torch.exp(-3 * t)) * (0.3 + edge)) for k, v in both.items()}


def error(prior: Prior, clean: Tensor, level: float, name: str) -> float:
    """Mean squared error per real component."""
    noisy = clean + level * unit_noise(clean.shape, clean.dtype, generator_for(0, "noise", name))
    found = prior.denoise(noisy, torch.tensor(level))
    return float((found - clean).abs().square().mean() / (2 if clean.is_complex() else 1))


def strengths(kind: str) -> Iterator[tuple[float, float]]:
    """Pairs (strength, mean over images and levels 0.1 to 1 of ln r^2)."""
    found = images(kind)
    for strength in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2):
        prior = TotalVariationPrior(strength=strength, field=kind)
        yield strength, sum(math.log(error(prior, x, s, n)) for n, x in found.items() for s in LEVELS[2:5]) / 3 / len(found)


def curve(name: str, kind: str) -> list[tuple[float, float]]:
    """Pairs (level, mean squared error) averaged over the images."""
    prior = BY_NAME[name](field=kind, data_std=1.0)
    found = images(kind) if prior.image_axes == 2 else series(kind)
    return [(s, float(f"{sum(error(prior, x, s, n) for n, x in found.items()) / len(found):.3g}")) for s in LEVELS]


def report(rows: Callable[[str], object]) -> None:
    for kind in ("real", "complex"):
        print(kind, rows(kind), flush=True)


def milliseconds(name: str) -> float:
    """One complex image of 320 x 320, or a series of 16 images of 128 x 128."""
    prior = BY_NAME[name]()
    shape = (320, 320) if prior.image_axes == 2 else (16, 128, 128)
    noisy = unit_noise(shape, torch.complex64, generator_for(0, "time"))
    prior.denoise(noisy, torch.tensor(0.5))
    start = time.perf_counter()
    for _ in range(3):
        prior.denoise(noisy, torch.tensor(0.5))
    return (time.perf_counter() - start) / 3 * 1e3


def main(what: str) -> None:
    if what == "strength":
        report(lambda kind: {strength: round(value, 3) for strength, value in strengths(kind)})
    for name in BY_NAME:
        if what == "curves":
            print(name)
            report(lambda kind, name=name: curve(name, kind))
        if what == "time":
            print(f"{name}: {milliseconds(name):.0f} ms on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "curves")
