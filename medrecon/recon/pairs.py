"""Methods that are a pair: a data step around the prior, and a sampler that cannot tell it from one."""

from __future__ import annotations

from functools import partial

from medrecon.consistency.annealed import AnnealedLikelihood
from medrecon.consistency.decoupled import Decoupled, LangevinDraw
from medrecon.consistency.flow import Damped
from medrecon.consistency.gradient import NormalisedGradient, PosteriorGradient
from medrecon.consistency.half_quadratic import HalfQuadratic
from medrecon.consistency.krylov import Decomposed
from medrecon.consistency.likelihood_step import NoisyLikelihood, RefinedNoise
from medrecon.consistency.manifold import Manifold, unit_length
from medrecon.consistency.merge import NoisyMerge, NoisyProjection
from medrecon.consistency.moment import MomentMatched, MomentMatchedDraw, PseudoinverseGuided, unit_error
from medrecon.consistency.projection import NullSpace, reused
from medrecon.consistency.proximal import Perturbed, Proximal, noise_level, seen_error
from medrecon.consistency.spectral import Spectral
from medrecon.consistency.volume import DecomposedVolume, MergedVolume, ProximalVolume
from medrecon.prior.schedule import coarse_levels, flow_levels, log_levels, quad_levels, ve_levels, vp_levels
from medrecon.recon.recipe import Recipe
from medrecon.sample.ancestral import ancestral, euler, flow_noise, renoise
from medrecon.sample.fixed_point import parallel
from medrecon.sample.langevin import annealed_langevin, predictor_corrector
from medrecon.sample.multistep import multistep

_MEAN = partial(Proximal, variance=noise_level)

PAIRS: tuple[Recipe, ...] = (
    Recipe(
        name="dds",
        summary="Decomposed diffusion sampling: denoise, then conjugate gradients on the data, level by level.",
        reference="Chung et al. 2024, arXiv:2303.05754; Zhang et al. 2024, arXiv:2407.01521; Zhu et al. 2023, arXiv:2305.08995",
        kind="sampler",
        consistency=_MEAN,
        sampler=renoise,
        needs=("prior", "noise"),
        presets={
            "mmse": {"steps": 50, "average": 4},
            "sample": {"steps": 100, "average": 1},
            "paper": {"steps": 99, "average": 1, "eta": 0.85, "cg_steps": 5},
            "fast": {"steps": 16, "average": 1},
            "ode": {"steps": 30, "average": 1},
        },
        parts={
            "mmse": {"spread": 2**0.5},
            "sample": {"consistency": partial(Perturbed, variance=seen_error), "spread": 1.0},
            "paper": {"consistency": Decomposed, "schedule": vp_levels, "kind": "point"},
            "fast": {"kind": "point"},
            "ode": {"sampler": multistep, "kind": "point"},
        },
    ),
    Recipe(
        name="dps",
        summary="Diffusion posterior sampling: the gradient of the data term through the denoiser, any likelihood.",
        reference="Chung et al. 2023, arXiv:2209.14687",
        kind="biased",
        consistency=PosteriorGradient,
        sampler=ancestral,
        needs=("prior", "noise", "jacobian"),
        settings={"steps": 100, "weight": 2.0},
        presets={"default": {}, "paper": {"steps": 1000}},
        parts={"paper": {"consistency": NormalisedGradient, "schedule": vp_levels}},
        bias=(0.43, 1.47, 1.09),
    ),
    Recipe(
        name="pigdm",
        summary="Pseudoinverse guidance: the residual weighed by the prior's error, then taken through the denoiser.",
        reference="Song et al. 2023, openreview 9_gsMA8MRKQ",
        kind="biased",
        consistency=partial(PseudoinverseGuided, variance=seen_error),
        sampler=ancestral,
        needs=("prior", "noise", "jacobian"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {}},
        parts={
            "paper": {
                "consistency": partial(PseudoinverseGuided, variance=unit_error, prior_noise=True, damped_outside=True, bounded=False),
                "schedule": vp_levels,
            }
        },
        bias=(0.10, 0.95, 1.04),
    ),
    Recipe(
        name="tmpd",
        summary="Moment matching: the prior's own covariance, by its Jacobian, between denoised image and data.",
        reference="Boys et al. 2023, arXiv:2310.06721; Rozet et al. 2024, arXiv:2405.13712",
        kind="sampler",
        consistency=MomentMatched,
        sampler=ancestral,
        needs=("prior", "noise", "jacobian"),
        presets={"default": {"steps": 100}, "sample": {"steps": 50}},
        parts={"sample": {"consistency": MomentMatchedDraw, "sampler": renoise}},
        spread=1.0,
        bias=(0.0, 1.0, 1.0),
    ),
    Recipe(
        name="diffpir",
        summary="Half-quadratic splitting: a proximal step as wide as the noise level, then fresh noise.",
        reference="Zhu et al. 2023, arXiv:2305.08995",
        kind="biased",
        consistency=HalfQuadratic,
        sampler=renoise,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"eta": 0.1**0.5}},
        parts={"default": {"spread": 2**0.5}, "paper": {"schedule": quad_levels}},
        bias=(0.07, 0.68, 0.75),
    ),
    Recipe(
        name="dmps",
        summary="The likelihood of the noisy image itself for an uninformative prior; nothing is differentiated.",
        reference="Meng and Kabashima 2022, arXiv:2211.12343",
        kind="biased",
        consistency=NoisyLikelihood,
        sampler=ancestral,
        needs=("prior", "noise", "linear"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 1000, "weight": 1.75}},
        parts={"paper": {"schedule": vp_levels}},
        bias=(0.43, 0.99, 1.42),
    ),
    Recipe(
        name="nrlg",
        summary="Noise-refined likelihood guidance: the predicted noise is corrected by a likelihood score in closed form.",
        reference="Noise-refined likelihood guidance (from its abstract); Meng and Kabashima 2022, arXiv:2211.12343",
        kind="biased",
        consistency=partial(RefinedNoise, variance=seen_error),
        sampler=ancestral,
        needs=("prior", "noise", "linear"),
        settings={"steps": 100},
        bias=(0.27, 1.05, 1.34),
    ),
    Recipe(
        name="daps",
        summary="Decoupled annealing: a draw given the denoised image and the data, then fresh noise; langevin: any likelihood.",
        reference="Zhang et al. 2024, arXiv:2407.01521",
        kind="sampler",
        consistency=partial(Decoupled, variance=seen_error),
        sampler=renoise,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "langevin": {}, "paper": {"steps": 200}},
        parts={
            "default": {"spread": 1.0},
            "langevin": {"consistency": partial(LangevinDraw, variance=seen_error), "spread": 1.0},
            "paper": {
                "consistency": partial(Decoupled, variance=noise_level, ode_steps=5),
                "schedule": coarse_levels,
                "kind": "biased",
            },
        },
        bias=(0.08, 1.01, 1.06),
    ),
    Recipe(
        name="flowdps",
        summary="Posterior sampling for flow models: a proximal step that fades with the noise, as long as noise drowns the data.",
        reference="Kim et al. 2025, arXiv:2503.08136",
        kind="biased",
        consistency=partial(Damped, variance=seen_error),
        sampler=flow_noise,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 28, "undamped": 0.0}},
        parts={"paper": {"schedule": partial(flow_levels, shift=4.0)}},
        bias=(0.15, 0.83, 1.03),
    ),
    Recipe(
        name="ald",
        summary="Annealed Langevin dynamics on the posterior's score, any likelihood; slow where the data see weakly.",
        reference="Jalal et al. 2021, arXiv:2108.01368",
        kind="biased",
        consistency=AnnealedLikelihood,
        sampler=annealed_langevin,
        schedule=log_levels,
        needs=("prior", "noise"),
        settings={"steps": 200},
        presets={"default": {}, "paper": {"steps": 1155, "step": 1.15}},
        remedy="lower step, or raise steps",
        bias=(0.34, 1.57, 1.34),
    ),
    Recipe(
        name="ddnm",
        summary="Null-space projection: the data fix what is measured down to their own noise, the prior fills in the rest.",
        reference="Wang et al. 2023, arXiv:2212.00490",
        kind="sampler",
        consistency=NullSpace,
        sampler=euler,
        needs=("prior", "linear"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"eta": 0.85}},
        parts={
            "default": {"spread": 1.0},
            "paper": {"consistency": partial(NullSpace, rule=reused), "schedule": vp_levels, "kind": "biased"},
        },
        bias=(0.07, 0.93, 1.02),
        remedy="raise cg_steps, or noise_std if it is too low",
    ),
    Recipe(
        name="ddrm",
        summary="Restoration in the eigenbasis of the operator: each coefficient mixes data and denoised image by its own noise.",
        reference="Kawar et al. 2022, arXiv:2201.11793",
        kind="biased",
        consistency=Spectral,
        sampler=euler,
        needs=("prior", "linear", "spectrum"),
        settings={"steps": 50, "eta": 0.95},
        presets={"default": {}, "paper": {"steps": 20, "eta": 0.85}},
        parts={"paper": {"schedule": vp_levels}},
        bias=(0.19, 0.54, 1.03),
    ),
    Recipe(
        name="mcg",
        summary="Manifold constrained gradient: projection on the data, and their misfit through the denoiser elsewhere.",
        reference="Chung et al. 2022, arXiv:2206.00941",
        kind="biased",
        consistency=Manifold,
        sampler=euler,
        needs=("prior", "linear", "jacobian"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 2000, "weight": 0.1, "whole": True}},
        parts={"paper": {"consistency": partial(Manifold, rule=reused, length=unit_length), "schedule": ve_levels}},
        bias=(0.07, 0.91, 0.93),
        remedy="lower weight, or raise steps",
    ),
    Recipe(
        name="sgm",
        summary="Score-based reconstruction: noisy data replace what is measured of the noisy image, which is then denoised.",
        reference="Song et al. 2022, arXiv:2111.08005",
        kind="biased",
        consistency=NoisyMerge,
        sampler=predictor_corrector,
        schedule=log_levels,
        needs=("prior", "linear"),
        settings={"steps": 200},
        presets={"default": {}, "paper": {"steps": 1000, "snr": 0.206, "noise_aware": False}},
        parts={"paper": {"schedule": ve_levels}},
        bias=(0.13, 1.07, 1.17),
        remedy="lower snr, or raise steps",
    ),
    Recipe(
        name="score_mri",
        summary="Predictor and corrector, each after a gradient step of the noisy image towards the data.",
        reference="Chung and Ye 2022, arXiv:2110.05243",
        kind="biased",
        consistency=NoisyProjection,
        sampler=predictor_corrector,
        schedule=log_levels,
        needs=("prior", "linear"),
        settings={"steps": 200},
        presets={"default": {}, "paper": {"steps": 2000}},
        parts={"paper": {"schedule": ve_levels}},
        bias=(0.11, 1.08, 1.13),
        remedy="lower weight or snr",
    ),
    Recipe(
        name="dds_3d",
        summary="Volumes from a prior of slices: dds with total variation along z, its ADMM kept from level to level.",
        reference="Chung et al. 2024, arXiv:2303.05754",
        kind="biased",
        consistency=ProximalVolume,
        sampler=renoise,
        needs=("prior", "noise", "linear", "volume"),
        presets={
            "default": {"steps": 50},
            "paper": {"steps": 49, "eta": 0.85, "admm_steps": 1, "cg_steps": 5, "weight": 0.005, "rho": 0.01},
        },
        parts={"paper": {"consistency": DecomposedVolume, "schedule": vp_levels, "kind": "point"}},
        remedy="raise cg_steps or admm_steps, or lower rho",
    ),
    Recipe(
        name="diffusion_mbir",
        summary="Volumes from a prior of slices: noisy volumes are brought to data and smoothness along z, then denoised.",
        reference="Chung et al. 2023, arXiv:2211.10655",
        kind="biased",
        consistency=MergedVolume,
        sampler=predictor_corrector,
        needs=("prior", "noise", "linear", "volume"),
        presets={
            "default": {"steps": 200, "admm_steps": 1, "cg_steps": 5},
            "paper": {"steps": 2000, "admm_steps": 1, "cg_steps": 1, "weight": 0.005, "rho": 0.01},
        },
        parts={"paper": {"schedule": ve_levels}},
        remedy="raise cg_steps, lower rho or snr",
    ),
    Recipe(
        name="deqir",
        summary="Null-space projection with all levels of a window evaluated at once, until the trajectory stays: few turns.",
        reference="Cao et al. 2024, arXiv:2311.11600",
        kind="sampler",
        consistency=NullSpace,
        sampler=partial(parallel, churn=0.0),
        needs=("prior", "linear"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 25, "history": 5, "tolerance": 1e-3}},
        parts={
            "default": {"spread": 1.0},
            "paper": {"consistency": partial(NullSpace, rule=reused, eta=0.85), "schedule": vp_levels, "kind": "biased"},
        },
        bias=(0.07, 0.93, 1.02),
    ),
)
