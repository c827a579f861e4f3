"""Cartesian SENSE against explicit sums, and its fast normal operator against applying both."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft
from medrecon.linop.laws import matrix, random
from medrecon.physics.mri.sense import sense


def lines(n: int, *, every: int = 3) -> Tensor:
    mask = torch.zeros(n, 1, dtype=torch.bool)
    mask[::every] = True
    mask[n // 2 - 1 : n // 2 + 1] = True
    return mask


def dft(n: int) -> Tensor:
    """The centred orthonormal transform as a matrix, from its definition."""
    place = torch.arange(n, dtype=torch.float64) - n // 2
    angle = -2 * math.pi / n * place[:, None] * place
    return torch.polar(torch.full_like(angle, n**-0.5), angle)


@pytest.mark.parametrize(("ny", "nx"), [(7, 6), (6, 5), (4, 4)])
def test_the_operator_is_mask_times_fourier_times_coils(ny: int, nx: int) -> None:
    maps, mask = random((3, ny, nx), torch.complex128, "maps"), lines(ny).expand(ny, nx)
    fourier = torch.kron(dft(ny), dft(nx))
    expected = torch.cat([mask.reshape(-1, 1) * fourier @ torch.diag(s.flatten()) for s in maps])
    torch.testing.assert_close(matrix(sense(maps, lines(ny)), torch.complex128), expected)
    torch.testing.assert_close(matrix(sense(maps, mask), torch.complex128), expected)


def test_weights_act_once_in_the_normal_operator() -> None:
    maps, weights = random((2, 6, 5), torch.complex128, "maps"), torch.rand(6, 1, dtype=torch.float64)
    A = matrix(sense(maps, torch.ones(6, 1, dtype=torch.bool)), torch.complex128)
    expected = A.mH @ (weights.expand(2, 6, 5).reshape(-1, 1) * A)
    torch.testing.assert_close(matrix(sense(maps, weights).normal, torch.complex128), expected)


def test_two_map_sets_are_summed_before_the_transform() -> None:
    maps, x = random((2, 3, 6, 5), torch.complex128, "maps"), random((2, 6, 5), torch.complex128, "x")
    expected = fft((maps * x[:, None]).sum(0), (-2, -1)) * lines(6)
    torch.testing.assert_close(sense(maps, lines(6), sets=True)(x), expected)


def test_hybrid_data_are_kspace_with_the_readout_transformed_back() -> None:
    maps, x = random((3, 6, 5), torch.complex128, "maps"), random((6, 5), torch.complex128, "x")
    whole, hybrid = sense(maps, lines(6)), sense(maps, lines(6), axes=(-2,))
    torch.testing.assert_close(fft(hybrid(x), (-1,)), whole(x))
    torch.testing.assert_close(hybrid.normal(x), whole.normal(x))


@pytest.mark.parametrize("shape", [(32, 24), (31, 24), (32, 25), (31, 25)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("varying", ["lines", "points"])
def test_the_normal_operator_needs_no_shifts_on_odd_and_even_sizes(shape: tuple[int, int], dtype: torch.dtype, varying: str) -> None:
    mask = lines(shape[0]) if varying == "lines" else torch.rand(shape) < 0.4
    operator = sense(random((5, *shape), dtype, "maps"), mask)
    x = random((2, *shape), dtype, "x")
    expected = operator.H(operator(x))
    assert (operator.normal(x) - expected).norm() < (1e-6 if dtype == torch.complex64 else 1e-14) * expected.norm()


def test_groups_of_coils_and_items_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = sense(random((3, 4, 9, 8), torch.complex128, "maps"), lines(9), image_axes=2)
    x = random((2, 3, 9, 8), torch.complex128, "x")
    whole = operator.normal(x)
    module = importlib.import_module("medrecon.physics.mri.sense")  # the package shows the function of this name
    for limit in (1, 16 * 9 * 8, 32 * 9 * 8, 16 * 9 * 8 * 6):
        monkeypatch.setattr(module, "CACHE_BYTES", limit)
        torch.testing.assert_close(operator.normal(x), whole, rtol=1e-13, atol=1e-13)


def test_columns_that_no_map_reaches_stay_zero() -> None:
    maps = random((3, 8, 9), torch.complex128, "maps")
    maps[..., :2], maps[..., 6:] = 0, 0
    operator, x = sense(maps, lines(8)), random((8, 9), torch.complex128, "x")
    assert (operator.normal.first, operator.normal.last) == (2, 6)
    torch.testing.assert_close(operator.normal(x), operator.H(operator(x)))
    assert not sense(0 * maps, lines(8)).normal(x).any()


def test_samples_are_counted() -> None:
    mask = lines(9)
    assert sense(random((4, 9, 8), torch.complex64, "maps"), mask).n_samples == int(mask.sum()) * 8 * 4
    per_slice = torch.stack([mask, torch.ones_like(mask)])
    operator = sense(random((2, 4, 9, 8), torch.complex64, "maps"), per_slice, image_axes=2)
    assert operator.n_samples == (int(mask.sum()) + 9) * 8 * 4 / 2
    assert operator.n_data == 2 * operator.n_samples


def test_the_eigenbasis_is_kept_until_the_operator_moves() -> None:
    operator = sense(random((3, 7, 6), torch.complex64, "maps"), lines(7), exact=True)
    first = operator.spectrum
    assert first is operator.spectrum
    assert first is not operator.to("cpu").spectrum


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": torch.ones(3, 8, 8)}, "expected complex"),
        ({"mask": torch.ones(7, 1)}, "crop the mask"),
        ({"mask": torch.ones(8, 8), "axes": (-2,)}, "varies along axes"),
        ({"mask": -torch.ones(8, 1)}, "positive"),
        ({"mask": torch.ones(8, 8), "exact": True}, "use conjugate gradients"),
        ({"maps": torch.ones(2, 3, 8, 8, dtype=torch.complex64), "sets": True, "exact": True}, "use conjugate gradients"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    given = {"maps": torch.ones(3, 8, 8, dtype=torch.complex64), "mask": torch.ones(8, 1), **arguments}
    with pytest.raises(BadInput, match=message):
        sense(given.pop("maps"), given.pop("mask"), **given)  # type: ignore[arg-type]
