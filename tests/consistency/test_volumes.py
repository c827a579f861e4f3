"""Volumes from a prior of slices: total variation along z against dense solutions, another solver and known volumes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from medrecon.consistency.proximal import Proximal, noise_level
from medrecon.consistency.survey import difference_power, laplace_scale, survey
from medrecon.consistency.volume import DecomposedVolume, MergedVolume, ProximalVolume, Smoothed
from medrecon.errors import BadInput, NotSupported
from medrecon.iterate import run
from medrecon.linop.basic import Diagonal, Identity, Mask
from medrecon.linop.difference import Difference
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import matrix, random
from medrecon.linop.lowrank import Series
from medrecon.linop.operator import LinearOperator
from medrecon.linop.stack import VStack
from medrecon.physics.ct import CTOperator
from medrecon.physics.ct.circular import ParallelBeam2D, even_angles
from medrecon.physics.mri.sense import sense
from medrecon.prior.denoiser import Estimate
from medrecon.prior.gaussian import Gaussian as GaussianPrior
from medrecon.prior.gaussian import StationaryGaussian
from medrecon.prior.schedule import edm_levels
from medrecon.sample.ancestral import renoise
from medrecon.sample.langevin import predictor_corrector
from medrecon.solvers.likelihood import Gaussian, Likelihood
from medrecon.solvers.norm import norm
from medrecon.solvers.pdhg import pdhg
from medrecon.solvers.regularisers import L1
from medrecon.tensors import generator_for, norm2, seeded_draw, unit_noise

SHAPE = (5, 3, 4)
SIGMA, LOWER = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


def no_noise(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def slices(dtype: torch.dtype) -> GaussianPrior:
    """An anisotropic prior of one slice."""
    factor = random((12, 12), torch.float64, "factor")
    return GaussianPrior(0.3 * random(SHAPE[1:], dtype, "mean"), factor @ factor.mT / 12 + 0.1 * torch.eye(12, dtype=torch.float64))


def operator(dtype: torch.dtype) -> LinearOperator:
    """Weights for real volumes, an undersampled Fourier transform of each slice for complex ones."""
    if not dtype.is_complex:
        return Diagonal(2 + random(SHAPE, dtype, "weights"))
    mask = torch.rand(SHAPE[0], 3, 1, generator=torch.Generator().manual_seed(2)) < 0.7
    return 2.0 * Series(Mask(mask, SHAPE[1:]) @ Fourier(SHAPE[1:]), SHAPE[0])


def problem(dtype: torch.dtype, *batch: int) -> Gaussian:
    A = operator(dtype)
    image = random((*batch, 1, 3, 4), dtype, "image") + 0.2 * random((*batch, *SHAPE), dtype, "change")
    return Gaussian(A, A(image) + random((*batch, *A.range), dtype, "noise"))


@pytest.fixture(params=[torch.float64, torch.complex128], ids=["real", "complex"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param  # type: ignore[no-any-return]


def test_the_ends_of_a_volume_are_no_neighbours(dtype: torch.dtype) -> None:
    x = random((2, *SHAPE), dtype, "x")
    d = Difference(SHAPE, -3, 2.5)(x)
    torch.testing.assert_close(d[:, :-1], (x[:, 1:] - x[:, :-1]) / 2.5)
    assert float(d[:, -1].abs().max()) == 0


@pytest.mark.parametrize("pull", [0.0, 0.7])
def test_the_first_iteration_is_the_dense_solution_of_its_quadratic_problem(dtype: torch.dtype, pull: float) -> None:
    likelihood, x = problem(dtype), random(SHAPE, dtype, "x")
    step = Smoothed(slices(dtype), likelihood, z_scale=0.3, admm_steps=1, cg_steps=200, cg_tolerance=1e-12)
    found = step.smooth(x, pull, x)
    A, D = matrix(likelihood.A, dtype), matrix(Difference(SHAPE), dtype)
    rho = min(1 / 0.3**2, norm(likelihood.A, like=x) ** 2)
    system = A.mH @ A + rho * D.mH @ D + pull * torch.eye(60, dtype=dtype)
    expected = torch.linalg.solve(system, A.mH @ likelihood.y.flatten() + pull * x.flatten())
    torch.testing.assert_close(found.flatten(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("settings", [{"z_scale": 0.3}, {"z_scale": 0.3, "rho": 0.5}, {"z_scale": 0.3, "dz": 2.0, "strength": 0.5}])
def test_many_iterations_reach_the_total_variation_solution_of_another_solver(dtype: torch.dtype, settings: dict[str, float]) -> None:
    likelihood, centre, pull = problem(dtype), random(SHAPE, dtype, "x"), 0.5
    step = Smoothed(slices(dtype), likelihood, admm_steps=500, cg_steps=10, cg_tolerance=1e-8, **settings)  # type: ignore[arg-type]
    found = step.smooth(centre, pull, centre)
    both = VStack([likelihood.A, pull**0.5 * Identity(SHAPE)])
    whole = Gaussian(both, torch.cat([likelihood.y.flatten(), pull**0.5 * centre.flatten()]))
    variation = L1(Difference(SHAPE, -3, settings.get("dz", 1.0)))
    weight = settings.get("strength", 1.0) / 0.3
    bound = float(torch.linalg.matrix_norm(matrix(both, dtype), 2)) ** 2
    steps = pdhg(whole, variation, torch.zeros_like(centre), weight=weight, lipschitz=bound, operator_norm=2.0, balance=0.1, tolerance=1e-9)
    reference = run(steps, limit=5000).x

    def objective(x: Tensor) -> float:
        return float(whole.value(x).flatten() + weight * variation.value(x).flatten())

    assert abs(objective(found) - objective(reference)) <= 1e-4 * objective(reference)
    torch.testing.assert_close(found, reference, atol=2e-3, rtol=0)


def test_the_split_variable_stays_between_the_levels(dtype: torch.dtype) -> None:
    likelihood, x = problem(dtype), random(SHAPE, dtype, "x")
    make = partial(Smoothed, slices(dtype), likelihood, z_scale=0.3)
    once, twice = make(admm_steps=1), make(admm_steps=2)
    assert once.remembers
    first = once.smooth(x, 0.5, x)
    torch.testing.assert_close(once.smooth(first, 0.5, x), twice.smooth(x, 0.5, x))
    torch.testing.assert_close(make(admm_steps=1).smooth(x, 0.5, x), first)


def test_without_total_variation_every_slice_is_that_of_dds(dtype: torch.dtype) -> None:
    prior, likelihood, levels = slices(dtype), problem(dtype), edm_levels(8, 10.0, 0.05)
    if dtype.is_complex:
        mask = likelihood.A.operator.operator.left.mask  # type: ignore[union-attr]
        alone = Gaussian(2.0 * (Mask(mask, SHAPE[1:]) @ Fourier(SHAPE[1:])), likelihood.y)
    else:
        alone = Gaussian(Diagonal(likelihood.A.values, SHAPE[1:]), likelihood.y)  # type: ignore[arg-type]

    def sampled(both: Proximal | ProximalVolume) -> Tensor:
        generator = generator_for(3)

        def draw(x: Tensor) -> Tensor:
            return unit_noise(x.shape, x.dtype, generator)

        return run(renoise(both, 10 * draw(torch.zeros(SHAPE, dtype=dtype)), levels, draw)).x

    volume = sampled(ProximalVolume(prior, likelihood, strength=0.0))
    torch.testing.assert_close(volume, sampled(Proximal(prior, alone, variance=noise_level)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", [ProximalVolume, DecomposedVolume, MergedVolume])
@pytest.mark.parametrize("settings", [{}, {"weight": 0.01, "rho": 0.02}])
def test_volumes_of_a_batch_do_not_meet(dtype: torch.dtype, kind: type[Smoothed], settings: dict[str, float]) -> None:
    whole = problem(dtype, 2)
    whole.y[1] *= 30
    noisy = random((3, 2, *SHAPE), dtype, "noisy")

    def estimate(items: slice) -> Tensor:
        both = kind(slices(dtype), Gaussian(whole.A, whole.y[items]), **settings)  # type: ignore[arg-type]
        images = noisy[:, items]
        draw = seeded_draw(0, [(d, b) for d in range(3) for b in range(2)[items]], images.shape[:2])
        before = both.estimate(images, 2 * SIGMA, SIGMA, draw)
        return both.estimate(before.clean, SIGMA, LOWER, draw).clean

    together = estimate(slice(0, 2))
    for k in range(2):
        torch.testing.assert_close(estimate(slice(k, k + 1)), together[:, k : k + 1], atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("kind", [ProximalVolume, DecomposedVolume, MergedVolume])
def test_the_unit_of_the_image_does_not_matter(dtype: torch.dtype, kind: type[Smoothed]) -> None:
    unit, prior, likelihood, noisy = 50.0, slices(dtype), problem(dtype), random((1, *SHAPE), dtype, "noisy")
    flat = prior.vectors.real @ torch.diag(prior.values) @ prior.vectors.real.mT
    larger = GaussianPrior(unit * prior.mean, unit**2 * flat)

    def second(prior: GaussianPrior, A: LinearOperator, unit: float) -> Estimate:
        """Of two levels, the later below the size of the differences."""
        step = kind(prior, Gaussian(A, likelihood.y))
        before = step.estimate(unit * noisy, unit * SIGMA, unit * LOWER / 20, no_noise)
        return step.estimate(before.clean, unit * LOWER / 20, unit * LOWER / 40, no_noise)

    found, other = second(prior, likelihood.A, 1.0), second(larger, (1 / unit) * likelihood.A, unit)
    torch.testing.assert_close(other.clean / unit, found.clean, atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(other.noise, found.noise, atol=1e-7, rtol=1e-6)


def test_the_unit_of_length_does_not_matter(dtype: torch.dtype) -> None:
    likelihood, noisy, found = problem(dtype), random((1, *SHAPE), dtype, "noisy"), []
    for dz in (1.0, 4.0):
        # The same rho in either unit, since few iterations depend on it.
        step = ProximalVolume(slices(dtype), likelihood, dz=dz, rho=0.1 * dz**2)
        for sigma in (SIGMA, LOWER / 20):
            clean = step.estimate(noisy, sigma, sigma / 2, no_noise).clean
        found.append((clean, torch.as_tensor(step._split.weight) / dz))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_a_given_rho_stays_and_the_automatic_one_is_bounded(dtype: torch.dtype) -> None:
    likelihood, noisy = problem(dtype), random((1, *SHAPE), dtype, "noisy")
    for settings in ({}, {"rho": 0.3}):
        step = ProximalVolume(slices(dtype), likelihood, **settings)
        for _ in range(6):
            step.estimate(noisy, LOWER / 20, LOWER / 40, no_noise)
        share = torch.as_tensor(step._split.rho) / step.curvature
        assert float(share.max()) <= 1 + 1e-9
        assert not settings or float((share - 0.3).abs().max()) < 1e-9


def test_the_steps_keep_their_promises_to_the_sampler(dtype: torch.dtype) -> None:
    prior, likelihood, noisy = slices(dtype), problem(dtype), random((1, *SHAPE), dtype, "noisy")
    volume, merged, published = (
        kind(prior, likelihood).estimate(noisy, SIGMA, LOWER, no_noise) for kind in (ProximalVolume, MergedVolume, DecomposedVolume)
    )
    torch.testing.assert_close(volume.clean + SIGMA * volume.noise, noisy)
    torch.testing.assert_close(merged.clean, prior.denoise(merged.clean + SIGMA * merged.noise, SIGMA))
    torch.testing.assert_close(published.noise, (noisy - prior.denoise(noisy, SIGMA)) / SIGMA)


@pytest.mark.parametrize("noise_std", [0.03, 0.15])
@pytest.mark.parametrize("own_mask", [False, True])
def test_the_scale_of_differences_is_read_from_undersampled_noisy_data(dtype: torch.dtype, noise_std: float, own_mask: bool) -> None:
    """Smooth slices that change a little from one to the next; half of the lines are missing where images are complex."""
    frequency = torch.fft.fftfreq(16, dtype=torch.float64) * 16
    spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) / 4)
    field = StationaryGaussian(torch.zeros(16, 16, dtype=dtype), spectrum / spectrum.mean())
    volume = field.sample(random((1, 16, 16), dtype, "first")) + 0.1 * field.sample(random((12, 16, 16), dtype, "steps")).cumsum(0)
    kept = torch.rand(12 if own_mask else 1, 16, 1, generator=torch.Generator().manual_seed(5)) < 0.5
    kept[:, 6:10] = True
    plane = Mask(kept if own_mask else kept[0], (16, 16)) @ Fourier((16, 16)) if dtype.is_complex else Identity((16, 16))
    A = (1 / noise_std) * Series(plane, 12)
    data = A(volume)
    likelihood = Gaussian(A, data + random(data.shape, data.dtype, "noise") * (data != 0))
    true = float(volume.diff(dim=0).abs().mean()) / (2 if dtype.is_complex else 1)
    found = laplace_scale(survey(likelihood, field.data_std), Difference((12, 16, 16)), field.data_std)
    assert found.shape == (1, 1, 1)
    assert 0.5 < float(found) / true < 2


class FewViews:
    """Slices that share an image and differ by one of their own, seen by few projections or by a part of the lines."""

    def __init__(self, kind: torch.dtype, *change: float, noise_std: float = 0.3, n: int = 64, n_slices: int = 6) -> None:
        frequency = torch.fft.fftfreq(n) * n
        spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) / 4) ** 1.25
        self.prior = StationaryGaussian(torch.zeros(n, n, dtype=kind), spectrum / spectrum.mean())
        shape, sizes = (len(change), n_slices, n, n), torch.tensor(change)[:, None, None, None]
        own = self.prior.sample(random(shape, kind, "own"))
        self.volumes = self.prior.sample(random((len(change), 1, n, n), kind, "shared")) + sizes * own
        if kind.is_complex:
            mask = torch.rand(1, n, generator=torch.Generator().manual_seed(3)) < 0.25
            mask[:, n // 2 - 4 : n // 2 + 4] = True
            A: LinearOperator = (1 / noise_std) * Series(Mask(mask, (n, n)) @ Fourier((n, n)), n_slices)
        else:
            geometry = ParallelBeam2D(angles=even_angles(10), n_bins=95, bin_spacing=1.0)
            A = (1 / noise_std) * Series(CTOperator(geometry, (n, n), (1.0, 1.0)), n_slices)
        data = A(self.volumes)
        self.likelihood = Gaussian(A, data + random(data.shape, data.dtype, "noise") * (data != 0))
        self.difference = Difference(A.domain)

    def size(self, volumes: Tensor) -> Tensor:
        """Root mean square of differences over the truth's."""
        return (norm2(self.difference(volumes), 3) / norm2(self.difference(self.volumes), 3)).sqrt().flatten()


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_the_power_of_differences_is_known_from_data_that_see_a_part_of_it(kind: torch.dtype) -> None:
    scan = FewViews(kind, 0.15, 0.3)
    std, seen = scan.prior.data_std, survey(scan.likelihood, scan.prior.data_std)
    found = difference_power(scan.likelihood, scan.difference, std, seen)
    assert found.shape == (2, 1, 1, 1)
    share = (found / norm2(scan.difference(scan.volumes), 3)).sqrt().flatten()
    torch.testing.assert_close(share, torch.ones(2), atol=0.12, rtol=0)
    assert float((scan.size(seen[0]) ** 2 - scan.size(seen[1]) ** 2).clamp_min(0).sqrt().max()) < 0.88
    alone = Gaussian(scan.likelihood.A, scan.likelihood.y[1:])
    torch.testing.assert_close(difference_power(alone, scan.difference, std, survey(alone, std)), found[1:], rtol=1e-3, atol=0)
    factors = torch.tensor([1.0, 1.2])[:, None, None, None]  # a noise level for each volume: the operator has a batch axis
    each = Gaussian(Diagonal(factors, scan.likelihood.A.range) @ scan.likelihood.A, factors * scan.likelihood.y)
    both = difference_power(each, scan.difference, std, survey(each, std))
    assert both.shape == (2, 1, 1, 1)
    other = Gaussian(1.2 * scan.likelihood.A, 1.2 * scan.likelihood.y[1:])
    expected = torch.cat([found[:1], difference_power(other, scan.difference, std, survey(other, std))])
    torch.testing.assert_close(both, expected, rtol=1e-2, atol=0)


def test_slices_of_few_views_differ_as_much_as_is_aimed_at() -> None:
    scan = FewViews(torch.float32, 0.3)
    levels, x, draw = edm_levels(25, 20, 0.02), torch.zeros(1, *scan.volumes.shape), seeded_draw(0, [0], (1,))

    def differences(**settings: float) -> float:
        step = ProximalVolume(scan.prior, scan.likelihood, **settings)  # type: ignore[arg-type]
        return float(scan.size(run(renoise(step, levels[0] * draw(x), levels, draw)).x[0]))

    assert differences(aim=1.0) == pytest.approx(1.0, abs=0.1)
    assert differences(aim=1.0) + 0.1 < differences()
    assert differences(strength=0.0) > 1.4


def test_a_volume_of_one_slice_is_that_slice(dtype: torch.dtype) -> None:
    A = Identity((1, 3, 4))
    likelihood = Gaussian(3.0 * A, random((1, 3, 4), dtype, "y"))
    noisy = random((2, 1, 3, 4), dtype, "noisy")
    found = ProximalVolume(slices(dtype), likelihood, cg_steps=50).estimate(noisy, SIGMA, LOWER, no_noise).clean
    expected = Proximal(slices(dtype), likelihood, variance=noise_level).estimate(noisy, SIGMA, LOWER, no_noise).clean
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


class Scan3d:
    """Multi-coil lines of a volume in complex64: two halves that drift and jump, another mask for each slice."""

    def __init__(self, noise_std: float, n: int = 24, n_slices: int = 8) -> None:
        kind, one = torch.complex64, torch.linspace(-1, 1, n)
        frequency = torch.fft.fftfreq(n) * n
        spectrum = 1 / (1 + (frequency[:, None] ** 2 + frequency**2) ** 1.25 / 8)
        self.prior = StationaryGaussian(torch.zeros(n, n, dtype=kind), spectrum / spectrum.mean())
        images = self.prior.sample(random((3, n, n), kind, "images"))
        self.volume = images[0] + 0.3 * torch.linspace(0, 1, n_slices)[:, None, None] * images[1]
        self.volume[n_slices // 2 :] += 0.3 * images[2]
        centres = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])[..., None, None]
        maps = torch.exp(-((one[:, None] - centres[:, 0]) ** 2 + (one - centres[:, 1]) ** 2) / 1.5).to(kind)
        mask = torch.rand(n_slices, n, 1, generator=torch.Generator().manual_seed(3)) < 0.3
        mask[:, n // 2 - 2 : n // 2 + 2] = True
        A = Series(sense(maps / maps.abs().square().sum(0).sqrt(), mask, image_axes=2), n_slices)
        data = A(self.volume)
        data = data + noise_std * random(data.shape, kind, "noise") * (data != 0)
        self.likelihood = Gaussian((1 / noise_std) * A, data / noise_std)

    def sampled(self, make, sampler, steps: int) -> Tensor:  # type: ignore[no-untyped-def]
        x, draw, levels = torch.zeros(1, *self.volume.shape, dtype=torch.complex64), seeded_draw(0, [0], (1,)), edm_levels(steps, 20, 0.03)
        return run(sampler(make(self.prior, self.likelihood), levels[0] * draw(x), levels, draw)).x[0]

    def error(self, x: Tensor) -> float:
        return float((x - self.volume).norm() / self.volume.norm())


@pytest.mark.parametrize("noise_std", [0.05, 0.2])
def test_volumes_of_a_multicoil_scan_flicker_less_and_come_nearer_to_the_truth(noise_std: float) -> None:
    scan = Scan3d(noise_std)

    def flicker(x: Tensor) -> float:
        return float((x - scan.volume).diff(dim=0).abs().mean())

    alone = scan.sampled(partial(Proximal, variance=noise_level), renoise, 15)
    for make, sampler, steps in (
        (ProximalVolume, renoise, 15),
        (partial(DecomposedVolume, cg_steps=5), partial(renoise, eta=0.85), 15),
        (partial(MergedVolume, admm_steps=1, cg_steps=5), predictor_corrector, 30),
    ):
        volume = scan.sampled(make, sampler, steps)
        assert volume.dtype == torch.complex64
        assert flicker(volume) < 0.4 * flicker(alone), make
        assert scan.error(volume) < 0.7 * scan.error(alone), make


class Counts(Likelihood):
    """A likelihood that is not Gaussian."""

    domain = SHAPE
    n_data = 60

    def __init__(self) -> None:
        self.y = torch.ones(SHAPE, dtype=torch.float64)

    def residual(self, x: Tensor) -> Tensor:
        return x - self.y

    def value(self, x: Tensor) -> Tensor:
        return (x - self.y * x.log()).sum((-3, -2, -1), keepdim=True)

    def gradient(self, x: Tensor) -> Tensor:
        return 1 - self.y / x


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_likelihood_that_is_not_gaussian_is_refused_by_name(strength: float) -> None:
    both = ProximalVolume(slices(torch.float64), Counts(), strength=strength)
    with pytest.raises(NotSupported, match="Counts"):
        both.estimate(torch.ones(1, *SHAPE, dtype=torch.float64), SIGMA, LOWER, no_noise)


def test_a_prior_of_volumes_or_a_wrong_weight_is_refused() -> None:
    likelihood = problem(torch.float64)
    volumes = GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), torch.eye(60, dtype=torch.float64))
    with pytest.raises(BadInput, match="z first"):
        ProximalVolume(volumes, likelihood)
    for settings in ({"strength": -1.0}, {"z_scale": 0.0}, {"weight": -1.0}, {"rho": 0.0}, {"aim": 0.0}):
        with pytest.raises(BadInput, match="expected positive"):
            ProximalVolume(slices(torch.float64), likelihood, **settings)
