"""From any scan to the prior's range: the unit of k-space, empty space around the patient and bright outliers make no difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medrecon.physics.mri.scan import MRIScan
from medrecon.physics.mri.simulate import simulate, undersample
from medrecon.tensors import bright_level, centre_pad, generator_for
from medrecon.volume import volume_of
from tests.physics.mri.scans import head, lines

SHAPE = (4, 64, 64)


def tissue(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """The head with texture, so that its percentiles differ: flat ellipses would hide what moves them."""
    grain = torch.randn(shape, generator=generator_for(0, "tissue"))
    smooth = torch.nn.functional.avg_pool2d(grain, 5, 1, 2)
    return head(shape) * (1 + 0.4 * smooth / smooth.std()).clamp(0.2, 2)


def scan_of(image: Tensor, mask: Tensor | None = None, noise_std: float = 0.005) -> MRIScan:
    full = simulate(volume_of(image), coils=4, noise_std=noise_std)
    full = replace(full, kspace=full.kspace[0 : full.n_slices])
    return full if mask is None else undersample(full, mask)


def scale_of(source: MRIScan, **settings: Any) -> float:
    return float(source.prepare(**settings).scale)


@pytest.mark.parametrize("centre", [24, 2])
@pytest.mark.parametrize("factor", [1e3, 1e-6])
def test_the_scale_follows_the_unit_of_kspace(centre: int, factor: float) -> None:
    """With a centre to look at, and with too small a one."""
    source = scan_of(tissue(), lines(64, every=2, centre=centre))
    maps = torch.ones(4, 64, 64, dtype=torch.complex64)
    louder = replace(source, kspace=source.kspace[0:4] * factor)
    noise = {"noise_std": 0.005, "maps": maps}
    assert scale_of(louder, **{**noise, "noise_std": 0.005 * factor}) == pytest.approx(factor * scale_of(source, **noise), rel=1e-5)


def test_empty_slices_do_not_change_the_scale() -> None:
    image = tissue()
    longer = torch.cat([torch.zeros(8, 64, 64), image, torch.zeros(12, 64, 64)])
    assert scale_of(scan_of(longer)) == pytest.approx(scale_of(scan_of(image)), rel=0.03)


def test_a_wide_field_of_view_does_not_change_the_scale_at_the_same_resolution_of_the_centre() -> None:
    image = tissue()
    wide = centre_pad(image, (128, 128))
    maps = torch.ones(4, 64, 64, dtype=torch.complex64)
    narrow = scale_of(uniform(image), calib_size=24, maps=maps)
    assert scale_of(uniform(wide), calib_size=48, maps=torch.ones(4, 128, 128, dtype=torch.complex64)) == pytest.approx(narrow, rel=0.03)


def uniform(image: Tensor) -> MRIScan:
    """Fully sampled, one flat coil: its maps do not depend on the field of view."""
    from medrecon.linop.fourier import fft

    kspace = fft(image.to(torch.complex64), (-2, -1))[:, None].expand(-1, 4, -1, -1) / 2
    return MRIScan(grid=volume_of(image).grid, kspace=kspace.contiguous())


def test_a_bright_pixel_hardly_changes_the_scale() -> None:
    """Ten times the brightest tissue; through a centre of 24 x 24 of 256 x 256 pixels the same as 160 times."""
    image = tissue()
    spotted = image.clone()
    spotted[1, 40, 30] = 10 * image.max()
    assert scale_of(scan_of(spotted)) == pytest.approx(scale_of(scan_of(image)), rel=0.03)


def test_a_spike_in_one_coil_hardly_changes_the_scale() -> None:
    """Outside the centre not at all; in the centre of one slice of many a little."""
    source = scan_of(tissue((30, 64, 64)))
    expected = scale_of(source, noise_std=0.005)
    for ky, kx, tolerance in ((5, 9, 1e-6), (36, 28, 0.03)):
        spiked = source.kspace[0:30].clone()
        spiked[3, 1, ky, kx] += 0.5 * spiked.abs().max()
        assert scale_of(replace(source, kspace=spiked), noise_std=0.005) == pytest.approx(expected, rel=tolerance)


def test_the_bright_level_is_the_percentile_of_what_is_not_background() -> None:
    image = tissue()
    inside = image[image > 0.1 * bright_level(image)]
    assert float(bright_level(image)) == pytest.approx(float(inside.quantile(0.99)), rel=1e-3)
    assert float(bright_level(torch.cat([image.flatten(), torch.zeros(1_000_000)]))) == float(bright_level(image))
    assert float(bright_level(torch.cat([image.flatten(), torch.full((9,), 1e6)]))) == pytest.approx(float(bright_level(image)), rel=0.03)
    assert float(bright_level(torch.zeros(10))) == 0
    torch.testing.assert_close(bright_level(1000 * image), 1000 * bright_level(image))


def test_for_a_half_filled_image_the_level_is_that_of_the_training_images() -> None:
    image = tissue()
    assert 0.35 < float((image > 0).float().mean()) < 0.6
    assert float(bright_level(image)) == pytest.approx(float(image.quantile(0.995)), rel=0.03)
