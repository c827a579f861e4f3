"""medrecon undersample: raw data with a part of its samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrecon.cli.options import Force, Read, Seed, one_of, settings_of
from medrecon.cli.outputs import check_targets, staged
from medrecon.cli.session import Session

if TYPE_CHECKING:
    from torch import Tensor

MASK_HELP = "fastMRI's random, equispaced, equispaced_fraction, magic or magic_fraction lines; or poisson."


def undersample(
    session: Session,
    raw: Annotated[Path, typer.Argument(help="Fully sampled raw data.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The raw file to write, fastMRI HDF5.", show_default=False)],
    acceleration: Annotated[float, typer.Option("--acceleration", "-R", min=1, help="One sample of so many is kept.")] = 4.0,
    kind: Annotated[
        str,
        typer.Option("--mask", help=MASK_HELP),
    ] = "random",
    center_fraction: Annotated[
        float | None,
        typer.Option("--center-fraction", min=0, max=1, help="Lines kept in the centre.", show_default="0.08 at 4, 0.04 at 8"),
    ] = None,
    calib: Annotated[int, typer.Option("--calib", min=0, help="Side of the square kept in the centre by poisson.")] = 24,
    seed: Seed = 0,
    read: Read = None,
    force: Force = False,
) -> None:
    """Keep a part of the k-space of a fully sampled scan."""
    from medrecon import io
    from medrecon.errors import BadInput
    from medrecon.io.fastmri import write_scan
    from medrecon.physics.mri.scan import MRIScan
    from medrecon.physics.mri.simulate import undersample as undersampled

    check_targets([output], force)
    scan = io.read(raw, **settings_of(read, "--read"))
    if not isinstance(scan, MRIScan):
        raise BadInput(f"{raw}: holds no MRI raw data; `medrecon simulate` makes some from an image")
    session.inputs = [raw]
    session.settings = {"acceleration": acceleration, "mask": kind, "center_fraction": center_fraction, "seed": seed}
    mask = _mask(kind, scan.matrix, acceleration, center_fraction, calib, seed)
    with staged([output], force) as place:
        write_scan(undersampled(scan, mask), place[output])
    session.outputs = [output]
    session.metrics = {"sampled_fraction": float(mask.float().mean())}
    session.say(f"wrote {output}: {100 * session.metrics['sampled_fraction']:.1f} % of the samples")


def _mask(kind: str, matrix: tuple[int, ...], acceleration: float, center_fraction: float | None, calib: int, seed: int) -> Tensor:
    """The sampling mask over (y, x): (ny, 1) for whole lines, (ny, nx) for poisson."""
    from medrecon.physics.mri.fastmri_masks import KINDS, fastmri_mask
    from medrecon.physics.mri.masks import poisson_disc

    if one_of("--mask", kind, (*KINDS, "poisson")) == "poisson":
        return poisson_disc((matrix[-2], matrix[-1]), acceleration, calib=calib, seed=seed)
    return fastmri_mask(matrix[-2], acceleration, kind=kind, center_fraction=center_fraction, seed=seed)
