"""medrecon simulate: raw data from an image, multi-coil k-space or CT projections."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medrecon.cli.options import Force, Read, Seed, one_of, settings_of
from medrecon.cli.outputs import check_targets, staged
from medrecon.cli.session import Session

if TYPE_CHECKING:
    from medrecon.physics.ct.scan import CTScan
    from medrecon.volume import Volume

MODALITIES = ("mri", "ct")


def simulate(
    session: Session,
    image: Annotated[Path, typer.Argument(help="NIfTI, DICOM or npy: magnitudes for mri, HU for ct.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The raw file to write: fastMRI HDF5 (mri), npz (ct).", show_default=False)
    ],
    modality: Annotated[str, typer.Option("--modality", help="What is simulated: mri or ct.")] = "mri",
    coils: Annotated[int, typer.Option("--coils", min=1, help="mri: receive coils.")] = 8,
    snr_db: Annotated[float, typer.Option("--snr", help="mri: signal to noise of k-space in dB.")] = 20.0,
    geometry: Annotated[str, typer.Option("--geometry", help="ct: parallel, fan (curved detector) or cone (flat detector).")] = "parallel",
    views: Annotated[int, typer.Option("--views", min=1, help="ct: projections.")] = 360,
    arc: Annotated[
        float | None, typer.Option("--arc", help="ct: degrees that they cover.", show_default="180 for parallel rays, else 360")
    ] = None,
    bins: Annotated[int | None, typer.Option("--bins", min=1, help="ct: detector columns.", show_default="as pixels diagonally")] = None,
    photons: Annotated[float, typer.Option("--photons", min=0, help="ct: incident quanta per ray; 0 for no noise.")] = 1e5,
    electronic_std: Annotated[float, typer.Option("--electronic", min=0, help="ct: electronic noise in quanta.")] = 0.0,
    seed: Seed = 0,
    read: Read = None,
    force: Force = False,
) -> None:
    """Simulate raw data from an image: coils, smooth phase and noise, or projections and their quanta."""
    from medrecon import io
    from medrecon.errors import BadInput
    from medrecon.volume import Volume

    one_of("--modality", modality, MODALITIES)
    check_targets([output], force)
    volume = io.read(image, **settings_of(read, "--read"))
    if not isinstance(volume, Volume):
        raise BadInput(f"{image}: holds raw data already; `medrecon recon` makes an image of it")
    session.inputs, session.settings = [image], {"modality": modality, "seed": seed}
    if modality == "mri":
        from medrecon.io.fastmri import write_scan
        from medrecon.physics.mri.simulate import simulate as simulated

        session.settings |= {"coils": coils, "snr_db": snr_db}
        write = partial(write_scan, simulated(volume, coils=coils, snr_db=snr_db, seed=seed))
    else:
        from medrecon.io.ct_arrays import write_scan as write_projections

        session.settings |= {"geometry": geometry, "views": views, "arc": arc, "bins": bins, "photons": photons}
        write = partial(write_projections, _projections(volume, geometry, views, arc, bins, photons, electronic_std, seed))
    with staged([output], force) as place:
        write(place[output])
    session.outputs = [output]
    session.say(f"wrote {output}")


def _projections(
    volume: Volume, kind: str, views: int, arc: float | None, bins: int | None, photons: float, electronic_std: float, seed: int
) -> CTScan:
    import math

    from medrecon.physics.ct.simulate import BEAMS, beam
    from medrecon.physics.ct.simulate import simulate as simulated

    one_of("--geometry", kind, BEAMS)
    geometry = beam(volume, kind, views=views, arc=None if arc is None else math.radians(arc), bins=bins)
    return simulated(volume, geometry, photons=photons or None, electronic_std=electronic_std, seed=seed)
