"""The measured size of the fully sampled centre."""

from __future__ import annotations

import pytest
import torch

from medrecon.errors import BadInput
from medrecon.physics.mri.calibration import calibration_block, calibration_size, sampled_positions
from medrecon.physics.mri.fastmri_masks import fastmri_lines


@pytest.mark.parametrize("n", [320, 368, 371, 53])
@pytest.mark.parametrize("acceleration", [4, 8])
def test_centre_of_a_fastmri_mask_is_found(n: int, acceleration: int) -> None:
    lines = fastmri_lines(n, acceleration, "equispaced", None, "file1.h5", 1, None, False)
    found = calibration_size(lines.mask, 64)[0]
    # the original centre may sit one line off the centre of k-space; a neighbouring outer line may widen it
    assert lines.n_low - 1 <= found <= lines.n_low + 4


def test_completely_sampled_axes_give_the_limit() -> None:
    mask = torch.zeros(64, 1, dtype=torch.bool)
    mask[32 - 9 : 32 + 9] = True
    assert calibration_size(mask, 24) == (18, 24)
    assert calibration_size(mask, 12) == (12, 12)
    assert calibration_size(mask[None], (1, 24, 24)) == (1, 18, 24)
    assert calibration_size(torch.ones(1, 9, dtype=torch.bool), 24) == (24, 9)


def test_rectangles_and_discs_give_their_largest_centred_block() -> None:
    mask = torch.zeros(40, 41, dtype=torch.bool)
    mask[20 - 4 : 20 + 4, 20 - 10 : 20 + 11] = True
    assert calibration_size(mask, 40) == (8, 21)
    y, x = torch.meshgrid(torch.arange(64) - 32, torch.arange(64) - 32, indexing="ij")
    disc = y**2 + x**2 <= 12**2
    ny, nx = calibration_size(disc, 40)
    assert min(ny, nx) >= 16
    assert disc[32 - ny // 2 : 32 - ny // 2 + ny, 32 - nx // 2 : 32 - nx // 2 + nx].all()


def test_no_centre_gives_zero() -> None:
    mask = torch.zeros(10, 1, dtype=torch.bool)
    mask[0] = True
    assert calibration_size(mask, 24) == (0, 0)


def test_zeroed_lines_that_the_mask_lists_are_not_calibration_data() -> None:
    kspace = torch.randn(2, 3, 64, 48, dtype=torch.complex64)
    mask = torch.ones(64, 1, dtype=torch.bool)
    kspace[..., :27, :] = 0
    assert calibration_block(kspace, 24, smallest=(8, 8), mask=mask).shape[-2:] == (11, 24)
    with pytest.raises(BadInput, match=r"measures 11 x 24 .*at least 12 x 12"):
        calibration_block(kspace, 24, smallest=(12, 12), mask=mask)


def test_mask_limits_what_the_data_show() -> None:
    kspace = torch.randn(3, 64, 48, dtype=torch.complex64)
    mask = torch.zeros(64, 1, dtype=torch.bool)
    mask[32 - 8 : 32 + 8] = True
    assert calibration_block(kspace, 24, smallest=(8, 8), mask=mask).shape == (3, 16, 24)


def test_missing_centre_says_what_else_can_be_done() -> None:
    kspace = torch.randn(3, 64, 48, dtype=torch.complex64)
    kspace[:, 20:44] = 0
    with pytest.raises(BadInput, match="--set calib=FILE"):
        calibration_block(kspace, 24, smallest=(8, 8))


def test_a_coil_with_zeros_does_not_hide_a_sample() -> None:
    kspace = torch.zeros(2, 3, 4, 5, dtype=torch.complex64)
    kspace[1, 2, 3, 4] = 1
    assert int(sampled_positions(kspace).sum()) == 1
