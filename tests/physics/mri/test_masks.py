"""fastMRI's masks bit for bit; our own by what they promise."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.physics.mri.fastmri_masks import KINDS, fastmri_lines, fastmri_mask
from medrecon.physics.mri.masks import caipi, equispaced, gaussian, mask_facts, poisson_disc, polynomial, variable_density

CASES = json.loads((GOLDEN / "mri" / "fastmri_masks.json").read_text())["cases"]


@pytest.fixture(scope="module")
def bits() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "mri" / "fastmri_masks.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_fastmri_masks_are_equal_bit_for_bit(case: dict[str, Any], bits: dict[str, np.ndarray]) -> None:
    ours = fastmri_lines(
        case["width"],
        case["accelerations"],
        case["kind"],
        case["center_fractions"],
        case["filename"],
        case["offset"],
        case["padding"],
        case["allow_any_combination"],
    )
    expected = np.unpackbits(bits[case["id"]])[: case["width"]].astype(bool)
    assert ours.mask.shape == (case["width"], 1)
    assert ours.mask.dtype == torch.bool
    assert np.array_equal(ours.mask[:, 0].numpy(), expected)
    assert ours.n_low == case["num_low_frequencies"]


def test_seed_is_the_base_name_of_the_file() -> None:
    name = fastmri_mask(320, seed="file1000000.h5")
    assert torch.equal(name, fastmri_mask(320, seed="somewhere/else/file1000000.h5"))
    assert torch.equal(name, fastmri_mask(320, seed=tuple(map(ord, "file1000000.h5"))))
    assert not torch.equal(name, fastmri_mask(320, seed="file1000001.h5"))
    assert not torch.equal(fastmri_mask(320), fastmri_mask(320))


def test_customary_centres() -> None:
    assert fastmri_lines(368, 4, "random", None, 0, None, None, False).n_low == 29
    assert fastmri_lines(368, 8, "random", None, 0, None, None, False).n_low == 15
    with pytest.raises(BadInput, match="center_fraction"):
        fastmri_mask(368, 6)


def test_wrong_fastmri_masks_are_errors() -> None:
    with pytest.raises(BadInput, match="did you mean 'equispaced'"):
        fastmri_mask(320, kind="equispced")
    with pytest.raises(BadInput, match="pair them"):
        fastmri_mask(320, [4, 8], center_fraction=0.08)
    with pytest.raises(BadInput, match="smaller center_fraction"):
        fastmri_mask(320, 4, kind="equispaced_fraction", center_fraction=0.5)
    with pytest.raises(BadInput):
        fastmri_mask(320, 0.5, center_fraction=0.1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_true_acceleration_is_reported(kind: str) -> None:
    mask = fastmri_mask(368, 4, kind=kind, seed=3)
    facts = mask_facts(mask)
    assert facts.acceleration == pytest.approx(368 / int(mask.sum()))
    assert len(facts.acs) == 1
    assert facts.acs[0] >= 28
    inside = fastmri_mask(368, 4, kind=kind, seed=3, padding=(18, 350))
    assert mask_facts(inside, (18, 350)).acceleration == pytest.approx(332 / int(inside.sum()))


def test_mask_without_samples_is_an_error() -> None:
    with pytest.raises(BadInput, match="samples nothing"):
        mask_facts(torch.zeros(8, 1, dtype=torch.bool))


@pytest.mark.parametrize("n", [64, 65])
def test_equispaced_lines_hit_the_centre(n: int) -> None:
    mask = equispaced(n, 4, acs=0)
    assert mask[n // 2, 0]
    assert set(mask[:, 0].nonzero().flatten().diff().tolist()) == {4}
    assert equispaced(n, 4, acs=0, offset=1)[n // 2 + 1, 0]
    assert mask_facts(equispaced(n, 4, acs=11)).acs[0] >= 11


@pytest.mark.parametrize("shape", [368, (96, 101)])
@pytest.mark.parametrize("density", [polynomial(), polynomial(1.0), gaussian()])
def test_variable_density_has_the_wanted_acceleration_on_average(shape: int | tuple[int, int], density: Any) -> None:
    masks = [variable_density(shape, 4, density=density, seed=seed) for seed in range(30)]
    assert masks[0].shape == ((shape, 1) if isinstance(shape, int) else shape)
    rate = torch.stack([mask.double().mean() for mask in masks]).mean()
    assert float(1 / rate) == pytest.approx(4, rel=0.05)
    assert all(min(mask_facts(mask).acs) >= 24 for mask in masks)


def distances_respected(mask: Tensor, calib: int, slope: float) -> float:
    """The largest r0 for which every pair outside the centre keeps the smaller of its two distances."""
    ny, nx = mask.shape
    centre = torch.zeros_like(mask)
    centre[ny // 2 - calib // 2 : ny // 2 - calib // 2 + calib, nx // 2 - calib // 2 : nx // 2 - calib // 2 + calib] = True
    points = (mask & ~centre).nonzero().double()
    k = ((points - torch.tensor([ny // 2, nx // 2])) / torch.tensor([ny / 2, nx / 2])).norm(dim=1)
    scale = torch.minimum(1 + slope * k[:, None], 1 + slope * k)
    return float((torch.cdist(points, points) / scale).fill_diagonal_(torch.inf).min())


@pytest.mark.parametrize("acceleration", [4.0, 8.0])
def test_poisson_disc_is_exact_in_acceleration_and_keeps_its_distance(acceleration: float) -> None:
    mask = poisson_disc((96, 81), acceleration, calib=16, slope=1.0, seed=2)
    assert int(mask.sum()) == round(96 * 81 / acceleration)
    assert min(mask_facts(mask).acs) >= 16
    assert distances_respected(mask, 16, 1.0) > (0.6 if acceleration == 4 else 1.1)
    corner = torch.zeros_like(mask)
    corner[:8, :8] = True
    assert not (mask & corner).any()
    assert (poisson_disc((96, 81), acceleration, calib=16, elliptic=False) & corner).any()


def test_random_masks_depend_on_the_seed_alone() -> None:
    mask = poisson_disc((64, 64), 5.0, seed="scan.h5", calib=12)
    assert torch.equal(mask, poisson_disc((64, 64), 5.0, seed="scan.h5", calib=12))
    assert not torch.equal(mask, poisson_disc((64, 64), 5.0, seed="scan2.h5", calib=12))
    # the same on every platform and NumPy version
    lines = variable_density(320, 4, seed=7)
    assert hashlib.sha256(lines.numpy().tobytes()).hexdigest()[:12] == hashlib.sha256(expected_lines().tobytes()).hexdigest()[:12]


def expected_lines() -> np.ndarray:
    """Line 7 of the documented recipe, from PCG64's raw bits: 53 of them make a uniform number."""
    raw = np.random.PCG64(7).random_raw(320)
    uniform = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    k = np.abs(np.arange(320) - 160) / 160
    relative = np.clip(np.clip(1 - k, 0, None) ** 3, 1e-9, None)
    centre = np.abs(np.arange(320) - 159.5) < 12
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        if np.where(centre, 1, np.minimum(middle * relative, 1)).sum() < 80:
            low = middle
        else:
            high = middle
    return (uniform < high * relative) | centre


def test_impossible_masks_are_errors() -> None:
    with pytest.raises(BadInput, match="calibration centre"):
        poisson_disc((40, 40), 8.0, calib=24)
    with pytest.raises(BadInput, match="elliptic=False"):
        poisson_disc((40, 40), 1.05, calib=4)
    with pytest.raises(BadInput):
        equispaced(20, 4, acs=24)
    with pytest.raises(BadInput, match="calibration centre"):
        variable_density(64, 4, acs=24)


def test_caipi_shifts_lines_from_partition_to_partition() -> None:
    mask = caipi((8, 12), (2, 3), shift=1)
    assert mask.shape == (8, 12, 1)
    assert mask_facts(mask).acceleration == pytest.approx(6)
    assert mask[4, 6, 0]
    rows = [mask[z, :, 0].nonzero().flatten().remainder(3).unique().tolist() for z in (4, 6)]
    assert rows[1] == [(rows[0][0] + 1) % 3]
    assert mask_facts(caipi((32, 32), (2, 2), acs=(8, 10))).acs >= (8, 10)
