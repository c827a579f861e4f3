"""Projectors in the plane: against ASTRA, against known integrals, against each other; transposes; every way to call them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrecon.errors import BadInput, NotSupported
from medrecon.physics.ct import CTOperator, FanBeam2D, Geometry, ParallelBeam2D, VectorGeometry, even_angles
from medrecon.physics.ct.grid import Pixels
from medrecon.physics.ct.rays import rays
from medrecon.physics.ct.reference import joseph

GOLDEN = Path(__file__).parents[2] / "golden" / "ct"

FAN = FanBeam2D(angles=even_angles(11, 2 * math.pi, 0.1), n_bins=17, bin_spacing=1.9, dso=60.0, dsd=100.0, offset=0.7)
GEOMETRIES: dict[str, Geometry] = {
    "parallel": ParallelBeam2D(angles=even_angles(9), n_bins=15, bin_spacing=1.1),
    "parallel, offset, coarse bins": ParallelBeam2D(angles=even_angles(7, 3.0, 0.2), n_bins=6, bin_spacing=3.7, offset=-1.3),
    "parallel, fine bins": ParallelBeam2D(angles=even_angles(7, 3.0, 0.2), n_bins=70, bin_spacing=0.23),
    "fan": FAN,
    "fan, curved": replace(FAN, detector="curved"),
    "fan, wide, near": FanBeam2D(angles=even_angles(6, 6.0), n_bins=40, bin_spacing=1.5, dso=16.0, dsd=30.0, axis_shift=0.4),
    "one view": ParallelBeam2D(angles=[0.3], n_bins=9, bin_spacing=1.5),
    "one bin": ParallelBeam2D(angles=even_angles(5), n_bins=1, bin_spacing=9.0),
    "vectors": VectorGeometry(kind_of="fan2d", rows_of_vectors=FAN.vectors() * 1.03, n_bins=17),
}
SHAPE, SPACING, CENTRE = (10, 13), (1.2, 0.9), (1.0, -0.7)
WAYS = [("joseph", "numba"), ("joseph", "csr"), ("joseph", "torch"), ("sf", "numba"), ("sf", "csr")]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def operator(name: str, model: str = "joseph", impl: str = "auto") -> CTOperator:
    return CTOperator(GEOMETRIES[name], SHAPE, SPACING, centre=CENTRE, model=model, impl=impl)


def distance(found: Tensor | NDArray, expected: Tensor | NDArray) -> float:
    found, expected = (torch.as_tensor(np.asarray(a), dtype=torch.float64) for a in (found, expected))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("model", "impl"), WAYS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_adjoint_is_the_transpose(name: str, model: str, impl: str) -> None:
    A = operator(name, model, impl)
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        x, y = random(2, *A.domain, dtype=dtype), random(2, *A.range, dtype=dtype, seed=1)
        Ax, Aty = A(x), A.H(y)
        assert Ax.dtype == Aty.dtype == dtype
        gap = (Ax.double() * y).sum() - (x * Aty.double()).sum()
        assert abs(gap) <= bound * Ax.double().norm() * y.double().norm()
        assert Ax.norm() > 0


@pytest.mark.parametrize("name", GEOMETRIES)
def test_implementations_of_a_model_are_one_matrix(name: str) -> None:
    x = random(*SHAPE)
    for model, others in (("joseph", ("csr", "torch")), ("sf", ("csr",))):
        expected = operator(name, model, "numba")(x)
        for impl in others:
            A = operator(name, model, impl)
            assert distance(A(x), expected) < 1e-12
            assert distance(A(x.float()), expected) < 2e-6
        assert distance(operator(name, model, "numba")(x.float()), expected) < 2e-6


def test_an_image_around_the_source_is_crossed_by_whole_lines() -> None:
    geometry = FanBeam2D(angles=even_angles(6, 6.0), n_bins=21, bin_spacing=2.0, dso=5.0, dsd=30.0)
    found = {impl: CTOperator(geometry, (15, 16), (1.0, 1.0), impl=impl)(random(15, 16)) for impl in ("numba", "torch")}
    assert distance(found["numba"], found["torch"]) < 1e-12
    with pytest.raises(BadInput, match="source stands within"):
        CTOperator(geometry, (15, 16), (1.0, 1.0), model="sf")(random(15, 16))


def golden(name: str) -> tuple[dict[str, NDArray], dict, Callable[[str], CTOperator]]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    geometry = VectorGeometry(
        kind_of="parallel2d" if facts["kind"] == "parallel2d" else "fan2d",
        rows_of_vectors=np.array(facts["vectors"]),
        n_bins=arrays["analytic_bin"].shape[1],
        curved_detector=facts["dgamma"] is not None,
    )
    px = facts["image"]["px_mm"]
    return arrays, facts, lambda model: CTOperator(geometry, arrays["img"].shape, (px, px), model=model)


ASTRA = [
    # file, model, ASTRA's kernel, tolerance of the image, the random image and the backprojection
    ("parallel64", "joseph", "linear", (1e-5, 1e-5, 1e-5)),
    ("parallel64", "sf", "strip", (1e-5, 1e-5, 1e-5)),
    ("parallel64_offset", "sf", "strip", (1e-5, 1e-5, 1e-5)),
    ("fanflat64", "sf", "strip_fanflat", (5e-3, 1e-2, 5e-3)),
    ("parallel64", "joseph", "line", (3e-2, 3e-2, 3e-2)),
    ("fanflat64", "joseph", "line_fanflat", (3e-2, 3e-2, 5e-2)),
]


@pytest.mark.parametrize(("name", "model", "kernel", "bounds"), ASTRA)
def test_projections_are_astras(name: str, model: str, kernel: str, bounds: tuple[float, float, float]) -> None:
    arrays, _, make = golden(name)
    A = make(model)
    for key, bound in zip(("img", "rnd"), bounds, strict=False):
        assert distance(A(torch.from_numpy(arrays[key]).double()), arrays[f"astra_{kernel}_{key}"]) < bound
    assert distance(A.H(torch.from_numpy(arrays["y"]).double()), arrays[f"astra_{kernel}_bp"]) < bounds[2]


@pytest.mark.parametrize("name", ["parallel64", "parallel64_offset", "fanflat64", "fancurved64"])
@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_ellipses_have_their_line_integrals(name: str, model: str) -> None:
    arrays, _, make = golden(name)
    assert distance(make(model)(torch.from_numpy(arrays["img"]).double()), arrays["analytic_bin"]) < 5e-2


def blob(geometry: Geometry, pixels: Pixels, sigma: float, at: tuple[float, float], model: str) -> tuple[Tensor, NDArray]:
    """A Gaussian at (x, y) and its integrals: along the rays, for sf the mean of many across each bin."""
    (ny, nx), (dy, dx) = pixels.shape, pixels.spacing
    x, y = (np.arange(nx) - (nx - 1) / 2) * dx - at[0], ((ny - 1) / 2 - np.arange(ny)) * dy - at[1]
    image = np.exp(-(x**2 + y[:, None] ** 2) / (2 * sigma**2))
    fine = 1 if model == "joseph" else 32
    assert isinstance(geometry, ParallelBeam2D | FanBeam2D)
    points, directions = rays(replace(geometry, n_bins=geometry.n_bins * fine, bin_spacing=geometry.bin_spacing / fine))
    out = points - np.array(at)
    away = directions[..., 0] * out[..., 1] - directions[..., 1] * out[..., 0]
    integral = math.sqrt(2 * math.pi) * sigma * np.exp(-(away**2) / (2 * sigma**2))
    return torch.from_numpy(image), integral.reshape(*geometry.shape, fine).mean(-1)


@pytest.mark.parametrize("model", ["joseph", "sf"])
@pytest.mark.parametrize("kind", ["parallel", "fan", "curved"])
def test_a_smooth_blob_has_its_integral(kind: str, model: str) -> None:
    pixels = Pixels((120, 111), (0.8, 0.8))
    geometry: Geometry = ParallelBeam2D(angles=even_angles(12), n_bins=150, bin_spacing=0.8, offset=0.2)
    if kind != "parallel":
        detector = "flat" if kind == "fan" else kind
        geometry = FanBeam2D(angles=even_angles(13, 6.28), n_bins=150, bin_spacing=1.6, dso=200.0, dsd=390.0, detector=detector)
    image, expected = blob(geometry, pixels, 8 * 0.8, (5.0, -9.0), model)
    found = CTOperator(geometry, pixels.shape, pixels.spacing, model=model)(image)
    # linear interpolation widens a blob by (pixel / sigma)^2 / 12 where its curvature is largest, boxes by half of that
    assert distance(found, expected) < (1.2e-3 if model == "joseph" else 8e-4)
    assert abs(float(found.sum()) / expected.sum() - 1) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["joseph", "sf"])
@pytest.mark.parametrize("kind", ["parallel", "fan", "curved"])
def test_a_head_phantom_of_512_pixels_has_its_line_integrals(kind: str, model: str) -> None:
    px = 340 / 512
    geometry: Geometry = ParallelBeam2D(angles=even_angles(720), n_bins=736, bin_spacing=px)
    if kind != "parallel":
        detector = "flat" if kind == "fan" else kind
        geometry = FanBeam2D(angles=even_angles(720, 2 * math.pi), n_bins=736, bin_spacing=1.2858, dso=595.0, dsd=1085.6, detector=detector)
    assert isinstance(geometry, ParallelBeam2D | FanBeam2D)
    fine = replace(geometry, n_bins=736 * 8, bin_spacing=geometry.bin_spacing / 8)
    expected = np.concatenate([chords(*rays(fine, slice(v, v + 40))).reshape(40, 736, 8).mean(-1) for v in range(0, 720, 40)])
    at = ((np.arange(512 * 8) + 0.5) / 8 - 256) * px
    image = np.concatenate([inside(at, -at[i : i + 256]).reshape(32, 8, 512, 8).mean((1, 3)) for i in range(0, 4096, 256)])
    found = CTOperator(geometry, (512, 512), (px, px), model=model)(torch.from_numpy(image).float())
    assert distance(found, expected) <= 4.5e-3


# Shepp and Logan's, of higher contrast: centre, half axes, angle, density; lengths in 160 mm
HEAD = [
    (0, 0, 0.69, 0.92, 0, 1.0),
    (0, -0.0184, 0.6624, 0.874, 0, -0.8),
    (0.22, 0, 0.11, 0.31, -18, -0.2),
    (-0.22, 0, 0.16, 0.41, 18, -0.2),
    (0, 0.35, 0.21, 0.25, 0, 0.1),
    (0, 0.1, 0.046, 0.046, 0, 0.1),
    (0, -0.1, 0.046, 0.046, 0, 0.1),
    (-0.08, -0.605, 0.046, 0.023, 0, 0.1),
    (0, -0.606, 0.023, 0.023, 0, 0.1),
    (0.06, -0.605, 0.023, 0.046, 0, 0.1),
]


def chords(points: NDArray, directions: NDArray) -> NDArray:
    """Integrals along lines of the phantom."""
    total = np.zeros(points.shape[:-1])
    for x, y, a, b, turn, density in HEAD:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        scaled = np.array([[cos, sin], [-sin, cos]]) / (160 * np.array([[a], [b]]))
        p, d = (points - 160 * np.array([x, y])) @ scaled.T, directions @ scaled.T
        length = (d**2).sum(-1)
        total += density * 2 * np.sqrt(np.maximum(length - (p[..., 0] * d[..., 1] - p[..., 1] * d[..., 0]) ** 2, 0)) / length
    return 0.02 * total


def inside(x: NDArray, y: NDArray) -> NDArray:
    """The phantom's density at (y, x), mm."""
    total = np.zeros((len(y), len(x)))
    for x0, y0, a, b, turn, density in HEAD:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u, v = x / 160 - x0, y[:, None] / 160 - y0
        total += density * (((cos * u + sin * v) / a) ** 2 + ((cos * v - sin * u) / b) ** 2 <= 1)
    return 0.02 * total


def test_every_parallel_view_of_footprints_holds_the_mass() -> None:
    image = random(21, 18).abs()
    geometry = ParallelBeam2D(angles=even_angles(13), n_bins=40, bin_spacing=0.9)
    found = CTOperator(geometry, (21, 18), (1.1, 1.1), model="sf")(image)
    assert torch.allclose(found.sum(1) * 0.9, image.sum() * 1.21, rtol=1e-12)


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_the_central_ray_through_a_constant_is_as_long_as_its_chord(model: str) -> None:
    geometry = ParallelBeam2D(angles=even_angles(16), n_bins=1, bin_spacing=0.5)
    found = CTOperator(geometry, (40, 40), (0.5, 0.5), model=model)(torch.ones(40, 40, dtype=torch.float64))[:, 0]
    chord = 20 / np.maximum(np.abs(np.sin(geometry.angles)), np.abs(np.cos(geometry.angles)))
    corner = np.abs(np.abs(np.tan(geometry.angles)) - 1) < 0.2
    assert distance(found[~corner], chord[~corner]) < 1e-12
    assert distance(found[corner], chord[corner]) < 0.03  # where the chord ends in a corner, the last pixel counts half


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_twice_the_size_is_twice_the_integral(model: str) -> None:
    small, large = (
        CTOperator(replace(FAN, bin_spacing=1.9 * s, dso=60 * s, dsd=100 * s, offset=0.7 * s), (9, 8), (1.1 * s, 0.9 * s), model=model)
        for s in (1, 2)
    )
    x, y = random(9, 8), random(*FAN.shape)
    assert distance(large(x), 2 * small(x)) < 1e-12
    assert distance(large.H(y), 2 * small.H(y)) < 1e-12


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_a_quarter_turn_of_the_image_is_one_of_the_views(model: str) -> None:
    x = random(12, 12)
    A = CTOperator(ParallelBeam2D(angles=even_angles(16, 2 * math.pi, 0.05), n_bins=19, bin_spacing=0.9), (12, 12), (1.0, 1.0), model=model)
    assert distance(A(torch.rot90(x)), A(x).roll(4, 0)) < 1e-12  # counter-clockwise, as the gantry turns


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_gradients_are_the_adjoints(model: str) -> None:
    A = CTOperator(replace(FAN, angles=even_angles(5, 6.28), n_bins=9, bin_spacing=3.0), (8, 8), (2.0, 2.0), model=model)
    x, y = random(8, 8).requires_grad_(), random(5, 9).requires_grad_()
    assert torch.autograd.gradcheck(A, x)
    assert torch.autograd.gradcheck(A.H, y)
    assert torch.autograd.gradgradcheck(lambda x: A(x).square(), x)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_the_reference_is_differentiable_in_the_geometry(detector: str) -> None:
    geometry = replace(FAN, angles=np.array([0.13, 2.21, 4.4]), n_bins=5, bin_spacing=3.1, detector=detector)
    pixels = Pixels((6, 7), (2.0, 1.7))
    vectors = torch.from_numpy(geometry.vectors()).requires_grad_()
    image = random(1, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda image, vectors: joseph(image, geometry, pixels, vectors), (image, vectors))
    with pytest.raises(BadInput, match=r"geometry\.vectors"):
        joseph(image, geometry, pixels, vectors[:2])


@pytest.mark.parametrize("model", ["joseph", "sf"])
@pytest.mark.parametrize("name", ["parallel", "fan", "fan, curved"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_items(name: str, model: str, dtype: torch.dtype) -> None:
    A = operator(name, model)
    x, y = random(11, *A.domain, dtype=dtype), random(11, *A.range, dtype=dtype)
    assert torch.equal(A(x), torch.stack([A(item) for item in x]))
    assert torch.equal(A.H(y), torch.stack([A.H(item) for item in y]))
    assert A(x[:0]).shape == (0, *A.range)
    assert torch.equal(A(x[:10].reshape(2, 5, *A.domain)).reshape(10, *A.range), A(x[:10]))


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_layout_in_memory_does_not_matter(model: str) -> None:
    A = operator("fan", model)
    x, y = random(3, *A.domain), random(3, *A.range)
    strided = torch.zeros(3, 2 * SHAPE[0], SHAPE[1] + 4, dtype=x.dtype)[:, ::2, 2:-2].copy_(x)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(A(strided), A(x))
    assert torch.equal(A(turned), A(x))
    assert torch.equal(A(x[:1].expand(2, -1, -1))[1], A(x[0]))
    assert torch.equal(A.H(y.transpose(1, 2).contiguous().transpose(1, 2)), A.H(y))


@pytest.mark.parametrize("model", ["joseph", "sf"])
def test_threads_do_not_change_a_bit(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medrecon.physics.ct.workers.SMALL", 0)
    A = operator("fan, curved", model)
    x, y = random(*A.domain), random(*A.range)
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append((A(x), A.H(y)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)


def test_complex_images_are_two_real_ones_and_half_precision_is_computed_in_single() -> None:
    A = operator("fan")
    x = torch.complex(random(*SHAPE), random(*SHAPE, seed=1))
    assert torch.equal(A(x), torch.complex(A(x.real), A(x.imag)))
    y = torch.complex(random(*A.range), random(*A.range, seed=1))
    assert torch.equal(A.H(y), torch.complex(A.H(y.real), A.H(y.imag)))
    for dtype in (torch.float16, torch.bfloat16):
        half = random(*SHAPE).to(dtype)
        assert torch.equal(A(half), A(half.float()).to(dtype))
    with pytest.raises(BadInput, match=r"x\.float"):
        A(torch.ones(SHAPE, dtype=torch.int64))


def test_a_subset_of_views_is_a_part_of_the_projections() -> None:
    x = random(*SHAPE)
    for model in ("joseph", "sf"):
        A = operator("fan, curved", model)
        for views in ([4, 0, 7], slice(1, None, 3), np.arange(11) % 2 == 0):
            part = A.subset(views)
            assert torch.equal(part(x), A(x)[views])
            assert part.model == model


def test_nan_is_not_hidden() -> None:
    for model in ("joseph", "sf"):
        A = operator("parallel", model)
        image = torch.zeros(SHAPE)
        image[5, 6] = math.nan
        assert A(image).isnan().any()


def test_what_does_not_fit_is_said() -> None:
    geometry = GEOMETRIES["fan"]
    with pytest.raises(BadInput, match="slices are the batch"):
        CTOperator(geometry, (4, 5, 6), (1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="did you mean 'joseph'"):
        CTOperator(geometry, (5, 6), (1.0, 1.0), model="josef")
    with pytest.raises(BadInput, match="did you mean 'numba'"):
        CTOperator(geometry, (5, 6), (1.0, 1.0), impl="numbra")
    with pytest.raises(NotSupported, match="take impl numba or csr"):
        CTOperator(geometry, (5, 6), (1.0, 1.0), model="sf", impl="torch")
    with pytest.raises(BadInput, match=r"trailing shape \(6, 5\)"):
        CTOperator(geometry, (5, 6), (1.0, 1.0))(torch.ones(6, 5))
    large = ParallelBeam2D(angles=even_angles(2000), n_bins=2000, bin_spacing=0.3)
    with pytest.raises(NotSupported, match="take impl numba, or fewer views"):
        CTOperator(large, (400, 400), (1.0, 1.0), impl="csr")(torch.ones(400, 400))
