"""Methods that are an iteration of their own: with a prior, and classical ones without."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from medrecon.consistency.lowrank import low_rank
from medrecon.iterate import Step
from medrecon.physics.ct.direct import filtered_backprojection
from medrecon.prior.denoiser import Prior
from medrecon.recon.recipe import Iteration, Recipe
from medrecon.sample import ensemble, source, variational
from medrecon.sample.ensemble import enkg
from medrecon.sample.implicit_prior import drp
from medrecon.sample.plug_and_play import half_quadratic, pnp_admm, pnp_fista, red
from medrecon.sample.source import dflow
from medrecon.sample.variational import reddiff
from medrecon.solvers import classical
from medrecon.solvers.likelihood import Likelihood
from medrecon.tensors import Draw


def without_prior(solve: Callable[..., Iterator[Step]]) -> Iteration:
    """A classical solver (likelihood, x, **settings) as an `Iteration`, keeping its settings in sight."""

    def iteration(prior: Prior | None, likelihood: Likelihood, x: Tensor, sigmas: Tensor, draw: Draw, **settings: Any) -> Iterator[Step]:
        return solve(likelihood, x, **settings)

    iteration.__signature__ = inspect.signature(solve)  # type: ignore[attr-defined]
    iteration.__name__ = solve.__name__
    return iteration


ALONE: tuple[Recipe, ...] = (
    Recipe(
        name="hir",
        summary="Series of low rank: the axis (echoes, times, energies) from the data, the coefficient maps from a prior of images.",
        good_for="echoes, times or energies that vary smoothly, each undersampled differently",
        evaluations="1 for each coefficient map",
        reference="Pang et al. 2024, arXiv:2402.15865",
        kind="biased",
        iteration=low_rank,
        needs=("prior", "noise", "linear", "series"),
        presets={"default": {"steps": 50}, "paper": {"steps": 20, "rank": 3, "strength": 1.0, "eta": 0.0}},
        remedy="lower rank or raise cg_steps",
    ),
    Recipe(
        name="reddiff",
        summary="Variational: the prior's estimate of added noise regularises least squares, from high to low noise.",
        good_for="one image of any likelihood without differentiating the prior",
        evaluations="1",
        reference="Mardani et al. 2023, arXiv:2305.04391",
        kind="point",
        iteration=reddiff,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 1000}},
        parts={"paper": {"iteration": variational.released}},
        remedy="lower weight, or rate in preset paper",
        bias=(0.09,),
    ),
    Recipe(
        name="enkg",
        summary="Ensemble Kalman guidance: particles instead of derivatives, for operators that can only be evaluated.",
        good_for="operators that can only be evaluated, with few unknowns; not for images",
        evaluations="hundreds",
        reference="Zheng et al. 2024, arXiv:2409.20175; Emerick and Reynolds 2013, doi:10.1016/j.cageo.2012.03.011",
        kind="point",
        iteration=enkg,
        needs=("prior", "noise"),
        presets={
            "default": {"steps": 50},
            "sample": {"steps": 50},
            "paper": {"steps": 80, "ensemble": 1024, "updates": 2, "weight": 2.0},
        },
        parts={
            "sample": {"iteration": partial(enkg, outcome=ensemble.member), "kind": "biased"},
            "paper": {"iteration": partial(enkg, update=ensemble.released)},
        },
        remedy="raise ensemble, or lower weight in preset paper",
        bias=(0.05, 0.93, 0.89),
    ),
    Recipe(
        name="dflow",
        summary="Optimises the noise from which the prior's flow makes an image, through the whole flow.",
        good_for="small problems with a nonlinear operator",
        evaluations="12 and more, differentiated",
        reference="Ben-Hamu et al. 2024, arXiv:2402.14017",
        kind="point",
        iteration=dflow,
        needs=("prior", "noise", "jacobian"),
        settings={"steps": 20},
        presets={"default": {}, "paper": {"blend": 0.1}},
        parts={"paper": {"iteration": partial(dflow, penalty=source.shell)}},
        remedy="raise flow_steps",
        bias=(0.30,),
    ),
    Recipe(
        name="drp",
        summary="A network that restores degraded images as an implicit prior; with a denoiser the degradation is noise alone.",
        good_for="priors that are restoration networks",
        evaluations="1",
        reference="Hu et al. 2024, arXiv:2310.01391",
        kind="point",
        iteration=drp,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"steps": 200, "anneal": False}},
        remedy="lower tau",
        bias=(0.05,),
    ),
    Recipe(
        name="pnp_admm",
        summary="Plug-and-play ADMM: a denoiser in place of the prior's proximal step, with a dual.",
        good_for="the best single image by PSNR in 20 to 50 levels",
        evaluations="1",
        reference="Venkatakrishnan et al. 2013, doi:10.1109/GlobalSIP.2013.6737048; Zhang et al. 2021, arXiv:2008.13751 (dpir)",
        kind="point",
        iteration=pnp_admm,
        needs=("prior", "noise"),
        presets={"default": {}, "paper": {"steps": 100, "anneal": False}, "dpir": {"steps": 8}},
        parts={"dpir": {"iteration": half_quadratic}},
        bias=(0.00,),
    ),
    Recipe(
        name="pnp_fista",
        summary="Plug-and-play proximal gradients with momentum: a gradient step on the data, then a denoiser.",
        good_for="one image where a proximal step is too dear: a gradient a level",
        evaluations="1",
        reference="Kamilov et al. 2017, doi:10.1109/LSP.2017.2763583",
        kind="point",
        iteration=pnp_fista,
        needs=("prior", "noise"),
        settings={"steps": 100},
        presets={"default": {}, "paper": {"anneal": False}},
        remedy="set accelerated=false",
        bias=(0.07,),
    ),
    Recipe(
        name="red",
        summary="Regularisation by denoising: what the denoiser removes is the prior's gradient.",
        good_for="one image with an explicit, symmetric regulariser",
        evaluations="1",
        reference="Romano et al. 2017, arXiv:1611.02862; Reehorst and Schniter 2019, arXiv:1806.02296",
        kind="point",
        iteration=red,
        needs=("prior", "noise"),
        presets={"default": {}, "paper": {"steps": 200, "anneal": False, "accelerated": False}},
        remedy="set accelerated=false",
        bias=(0.02,),
    ),
    Recipe(
        name="sense",
        summary="Regularised least squares by conjugate gradients.",
        good_for="many coils, little acceleration",
        evaluations="0",
        reference="Pruessmann et al. 2001, doi:10.1002/mrm.1241",
        kind="classical",
        iteration=without_prior(classical.least_squares),
        settings={"steps": 30},
    ),
    Recipe(
        name="l1_wavelet",
        summary="Sparse wavelet coefficients (Daubechies 2) by FISTA.",
        good_for="no network wanted: sparse images, incoherent sampling",
        evaluations="0",
        reference="Lustig, Donoho, Pauly 2007, doi:10.1002/mrm.21391",
        kind="classical",
        iteration=without_prior(classical.wavelet_l1),
        needs=("noise",),
        settings={"steps": 100},
    ),
    Recipe(
        name="tv",
        summary="Isotropic total variation by a primal-dual iteration.",
        good_for="no network wanted: piecewise smooth images",
        evaluations="0",
        reference="Block, Uecker, Frahm 2007, doi:10.1002/mrm.21236",
        kind="classical",
        iteration=without_prior(classical.total_variation),
        needs=("noise",),
        settings={"steps": 200},
    ),
    Recipe(
        name="fbp",
        summary="Filtered backprojection of CT: parallel rays, fans, cones (FDK) and helices (rebinned), full and short scans.",
        good_for="many views, much dose; a quick look at any CT scan",
        evaluations="0",
        reference="Kak and Slaney 1988, chapter 3; Feldkamp, Davis, Kress 1984, doi:10.1364/JOSAA.1.000612",
        kind="classical",
        iteration=without_prior(filtered_backprojection),
        settings={"steps": 1},
    ),
    Recipe(
        name="zero_filled",
        summary="The adjoint of the encoding applied to the data, coils combined by their maps.",
        good_for="a quick look",
        evaluations="0",
        reference="",
        kind="classical",
        iteration=without_prior(classical.zero_filled),
        settings={"steps": 1},
    ),
    Recipe(
        name="rss",
        summary="Root of the sum of squares of the coil images, as fastMRI's targets are made; needs no maps.",
        good_for="fastMRI's targets",
        evaluations="0",
        reference="Roemer et al. 1990, doi:10.1002/mrm.1910160203",
        kind="classical",
        iteration=without_prior(classical.zero_filled),
        settings={"steps": 1},
        preparation={"combine": "rss", "whiten": False},
    ),
)
