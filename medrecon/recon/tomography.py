"""Methods of tomography that need no prior: sums of rows and columns, conjugate gradients, penalties, expectation maximisation."""

from __future__ import annotations

from medrecon.recon.alone import without_prior
from medrecon.recon.recipe import Recipe
from medrecon.solvers.algebraic import cgls, os_sart, sirt
from medrecon.solvers.emission import mlem, mltr, osem
from medrecon.solvers.penalised import pwls

TOMOGRAPHY: tuple[Recipe, ...] = (
    Recipe(
        name="sirt",
        summary="Simultaneous iterative reconstruction: residuals spread back along their rays, all views at once.",
        good_for="few or uneven views without a noise level; fewer steps are smoother",
        evaluations="0",
        reference="Gregor and Benson 2008, doi:10.1109/TMI.2008.923696",
        kind="classical",
        iteration=without_prior(sirt),
        settings={"steps": 100},
    ),
    Recipe(
        name="os_sart",
        summary="SIRT by ordered subsets: one group of views after the other.",
        good_for="as sirt, in a tenth of the time",
        evaluations="0",
        reference="Andersen and Kak 1984, doi:10.1016/0161-7346(84)90008-7; Censor et al. 2001, doi:10.1016/S0167-8191(00)00100-9",
        kind="classical",
        iteration=without_prior(os_sart),
        settings={"steps": 10},
    ),
    Recipe(
        name="cgls",
        summary="Least squares by conjugate gradients that stop where the image explains the data down to the noise.",
        good_for="the fastest image without a penalty, where the noise level is known",
        evaluations="0",
        reference="Hansen 1998, doi:10.1137/1.9780898719697",
        kind="classical",
        iteration=without_prior(cgls),
        settings={"steps": 30},
    ),
    Recipe(
        name="pwls",
        summary="Penalised weighted least squares: every ray by its noise, differences of neighbours penalised, edges kept with `edge`.",
        good_for="low dose: rays of very different noise; set edge to the faintest step that matters, in the prior's units",
        evaluations="0",
        reference="Thibault et al. 2007, doi:10.1118/1.2789499; Kim, Ramani, Fessler 2015, doi:10.1109/TMI.2014.2350962",
        kind="classical",
        iteration=without_prior(pwls),
        settings={"steps": 20},
    ),
    Recipe(
        name="mlem",
        summary="Maximum likelihood of emission counts by expectation maximisation.",
        good_for="emission tomography with few counts; fewer steps are smoother",
        evaluations="0",
        reference="Shepp and Vardi 1982, doi:10.1109/TMI.1982.4307558",
        kind="classical",
        iteration=without_prior(mlem),
        settings={"steps": 50},
    ),
    Recipe(
        name="osem",
        summary="Expectation maximisation by ordered subsets.",
        good_for="emission tomography as in the clinic: 2 to 4 passes",
        evaluations="0",
        reference="Hudson and Larkin 1994, doi:10.1109/42.363108",
        kind="classical",
        iteration=without_prior(osem),
        settings={"steps": 3},
    ),
    Recipe(
        name="mltr",
        summary="Maximum likelihood of transmission counts by parabolas, with ordered subsets.",
        good_for="very low dose, prepared with law=poisson: below some 50 quanta a logarithm is biased",
        evaluations="0",
        reference="Erdogan and Fessler 1999, doi:10.1088/0031-9155/44/11/311",
        kind="classical",
        iteration=without_prior(mltr),
        settings={"steps": 10},
    ),
)
