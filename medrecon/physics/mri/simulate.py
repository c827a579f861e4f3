"""Multi-coil k-space from a magnitude volume: coils, smooth phase, correlated noise, made slice by slice on demand.

k-space simulated from magnitude images looks better than measured k-space: results on it are labelled `simulated`
(Shimron et al. 2022, PNAS 119, e2117203119).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.linop.fourier import fft
from medrecon.physics.mri.loops import LoopArray, loop_array
from medrecon.physics.mri.prescription import prescribed
from medrecon.physics.mri.scan import MRIScan, NoiseScan
from medrecon.physics.scan import SliceArray
from medrecon.tensors import generator_for, real_dtype, unit_noise
from medrecon.volume import Volume

DEFAULT_SNR_DB = 20.0


@dataclass(frozen=True)
class SmoothPhase:
    """A polynomial of second order over the object, (10,) coefficients in rad of 1, x, y, z, xx, yy, zz, xy, xz, yz on [-1, 1]."""

    coefficients: Tensor

    def __call__(self, z: float, y: Tensor, x: Tensor) -> Tensor:
        """Phase (ny, nx) rad at positions in [-1, 1]."""
        row, column = y[:, None], x[None, :]
        one = torch.ones_like(row * column)
        terms = (one, column, row, z, column**2, row**2, z * z, row * column, z * column, z * row)
        phase = torch.zeros_like(one)
        for coefficient, term in zip(self.coefficients, terms, strict=True):
            phase = phase + coefficient * term
        return phase


@dataclass(frozen=True)
class SimulatedSlices:
    """k-space (slice, coil, y, x) complex64, computed when it is asked for; the same for the same seed in any order.

    `image` (z, y, x) real; `spacing` (z, y, x) mm; `n_readout`: encoded readout length, the image is padded to it;
    `noise_factor` (coil, coil): noise is noise_factor times unit noise, None without noise.
    """

    image: Tensor
    spacing: tuple[float, float, float]
    loops: LoopArray
    phase: SmoothPhase
    n_readout: int
    noise_factor: Tensor | None
    seed: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(slice, coil, y, x)."""
        return self.image.shape[0], self.loops.n_coils, self.image.shape[1], self.n_readout

    def __getitem__(self, index: slice) -> Tensor:
        slices = range(*index.indices(self.image.shape[0]))
        if not slices:
            return torch.zeros((0, *self.shape[1:]), dtype=torch.complex64)
        return torch.stack([self._kspace(z) for z in slices])

    def coil_maps(self, z: int) -> Tensor:
        """The true maps of a slice on the image grid, complex64 (coil, y, x), root sum of squares 1."""
        place, rows, columns = (
            (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * mm for n, mm in zip(self.image.shape, self.spacing, strict=True)
        )
        return self.loops.maps(float(place[z]), rows, columns)

    def object_image(self, z: int) -> Tensor:
        """The true complex image of a slice, (y, x)."""
        place, rows, columns = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in self.image.shape)
        phase = self.phase(float(place[z]), rows, columns)
        return self.image[z] * torch.polar(torch.ones_like(phase), phase)

    def _kspace(self, z: int) -> Tensor:
        coil_images = self.coil_maps(z) * self.object_image(z)
        nx = self.image.shape[-1]
        # where fastMRI's crop looks for the image, which is not the centre when the lengths differ by an odd number
        start = (self.n_readout - nx) // 2
        padded = coil_images.new_zeros(*coil_images.shape[:-1], self.n_readout)
        padded[..., start : start + nx] = coil_images
        kspace = fft(padded, (-2, -1))
        if self.noise_factor is not None:
            noise = unit_noise(kspace.shape, kspace.dtype, generator_for(self.seed, "noise", z))
            kspace = kspace + torch.einsum("cd,dyx->cyx", self.noise_factor, noise)
        return kspace


def simulate(
    volume: Volume,
    *,
    coils: int = 8,
    snr_db: float | None = None,
    noise_std: float | None = None,
    seed: int = 0,
    slices: slice | None = None,
    plane: str = "stored",
    fov: tuple[float, float] | None = None,
    matrix: tuple[int, int] | None = None,
    oversampling: float = 1.0,
    phase: float = 1.0,
    noise_correlation: float = 0.2,
    noise_samples: int = 8192,
) -> MRIScan:
    """Fully sampled multi-coil k-space of a magnitude volume (z, y, x); x is the readout, the affine is kept.

    `plane`: "stored", or "axial", "coronal", "sagittal" to turn the volume first. `fov` (y, x) mm pads or cuts the field of
    view, `matrix` (y, x) then sets the resolution as a scanner does, by cutting or zero-filling k-space.
    `noise_std`: per real component and mean coil, in units of the volume; else `snr_db` (default 20):
    noise_std = rms of noise-free k-space / 10^(dB/20) / sqrt 2; 0 or infinity for none. `phase`: size of the object's
    smooth phase, rad. `noise_correlation`: of neighbouring coils. `noise_samples`: length of the noise scan per coil.
    The coils' root sum of squares is 1, so that RSS of noise-free data gives back the volume.
    Raises `BadInput` for images that are no magnitude images and for settings out of range.
    """
    _check_settings(coils, oversampling, noise_correlation)
    prepared = prescribed(_magnitude(volume), plane=plane, fov=fov, matrix=matrix)
    image, spacing = prepared.image, prepared.spacing
    n_readout = round(oversampling * image.shape[-1])
    sigma = _noise_level(image, coils * image[0].shape[0] * n_readout * len(image), snr_db, noise_std)
    factor = sigma * _correlated(coils, noise_correlation, seed) if sigma > 0 else None
    extent = tuple(n * mm for n, mm in zip(image.shape, spacing, strict=True))
    kspace = SimulatedSlices(
        image=image,
        spacing=spacing,
        loops=loop_array(coils, (extent[0], extent[1], extent[2])),
        phase=_smooth_phase(phase, seed),
        n_readout=n_readout,
        noise_factor=factor,
        seed=seed,
    )
    noise = None
    if factor is not None and noise_samples > 0:
        noise = NoiseScan(factor @ unit_noise((coils, noise_samples), torch.complex64, generator_for(seed, "noise scan")))
    scan = MRIScan(
        grid=prepared.grid,
        header={"format": "simulated", "coils": coils, "noise_std": sigma, "seed": seed, "plane": plane, "oversampling": oversampling},
        study=prepared.facts,
        kspace=kspace,
        mask=torch.ones(image.shape[1], 1, dtype=torch.bool),
        crop=None if n_readout == image.shape[-1] else (image.shape[-2], image.shape[-1]),
        noise=noise,
        simulated=True,
    )
    return scan if slices is None else scan.select(slices)


@dataclass(frozen=True)
class MaskedSlices:
    """Another array with everything outside `mask` exactly (positive) zero, still unread."""

    whole: SliceArray
    mask: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole."""
        return tuple(self.whole.shape)

    def __getitem__(self, index: slice) -> Tensor:
        # a product would leave -0.0 with the sign of what was removed
        return torch.where(self.mask, self.whole[index], 0)


def undersample(scan: MRIScan, mask: Tensor) -> MRIScan:
    """The scan with only the samples in `mask`: bool (ny,), or of true rank such as (ny, 1), (ny, nx), (nz, ny, 1).

    Positions that the scan itself lacks stay unsampled. Noise, geometry and facts are kept; `header["acceleration"]` is
    positions over samples. Raises `BadInput` when the mask does not fit or nothing is left.
    """
    mask = mask[:, None] if mask.ndim == 1 else mask
    fits = mask.ndim == len(scan.matrix) and all(m in (1, n) for m, n in zip(mask.shape, scan.matrix, strict=True))
    if mask.dtype != torch.bool or not fits:
        raise BadInput(
            f"mask is {mask.dtype} {tuple(mask.shape)}, k-space has {scan.matrix}: expected bool with one entry per phase-encode line"
        )
    kept = mask if scan.mask is None else mask & scan.mask
    if not bool(kept.any()):
        raise BadInput("mask keeps no sample of this scan: use another mask or a smaller acceleration")
    header = {**scan.header, "acceleration": kept.numel() / int(kept.sum())}
    return replace(scan, kspace=MaskedSlices(scan.kspace, kept), mask=kept, header=header)


def _check_settings(coils: int, oversampling: float, correlation: float) -> None:
    if not 1 <= coils <= 128:
        raise BadInput(f"coils is {coils}, expected 1 to 128")
    if not 1 <= oversampling <= 8:
        raise BadInput(f"oversampling is {oversampling}, expected 1 to 8")
    if not 0 <= correlation < 1:
        raise BadInput(f"noise_correlation is {correlation}, expected at least 0 and below 1")


def _magnitude(volume: Volume) -> Volume:
    """The volume with a float32 magnitude image (z, y, x), checked."""
    image = volume.magnitude.image
    if image.ndim != 3:
        raise BadInput(f"k-space is simulated from one volume (z, y, x), got {tuple(image.shape)}: choose one")
    image = image.detach().cpu().to(real_dtype(image.dtype)).float()
    if not bool(torch.isfinite(image).all()):
        raise BadInput("the image holds NaN or infinite values: replace them before simulating")
    largest = float(image.max())
    if largest <= 0:
        raise BadInput("the image is zero or negative everywhere: nothing to simulate")
    # interpolation leaves small negative values in magnitude images; more than that is another kind of image
    if float(image.min()) < -0.05 * largest:
        raise BadInput(f"the image goes down to {float(image.min()):.4g} (largest {largest:.4g}): expected a magnitude image, 0 and above")
    return replace(volume, image=image.clamp_min(0))


def _noise_level(image: Tensor, n_samples: int, snr_db: float | None, noise_std: float | None) -> float:
    if snr_db is not None and noise_std is not None:
        raise BadInput("snr_db and noise_std both set the noise: give one of them")
    if noise_std is not None:
        if not 0 <= noise_std < math.inf:
            raise BadInput(f"noise_std is {noise_std}, expected 0 or more")
        return noise_std
    # the coils' squares sum to 1 and the transform is orthonormal, so k-space has the energy of the image
    rms = math.sqrt(sum(float(plane.double().square().sum()) for plane in image) / n_samples)
    decibel = DEFAULT_SNR_DB if snr_db is None else snr_db
    if math.isnan(decibel):
        raise BadInput("snr_db is not a number")
    return rms / 10 ** (decibel / 20) / math.sqrt(2)


def _correlated(coils: int, correlation: float, seed: int) -> Tensor:
    """Factor (coil, coil) of a noise covariance of mean variance 1: neighbours correlate, levels differ by about a tenth."""
    place = torch.arange(coils, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    covariance = correlation ** torch.minimum(distance, coils - distance)
    generator = generator_for(seed, "noise covariance")
    level = torch.rand(coils, generator=generator, dtype=torch.float64) * 0.4 + 0.8
    level = level / level.square().mean().sqrt()
    turn = torch.rand(coils, generator=generator, dtype=torch.float64) * 2 * math.pi
    factor = torch.linalg.cholesky(covariance).to(torch.complex128)
    return (torch.polar(level, turn)[:, None] * factor).to(torch.complex64)


def _smooth_phase(size: float, seed: int) -> SmoothPhase:
    generator = generator_for(seed, "object phase")
    return SmoothPhase(size * torch.randn(10, generator=generator))
