"""medrecon simulate: multi-coil k-space from an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medrecon.cli.options import Force, Read, Seed, one_of, settings_of
from medrecon.cli.outputs import check_targets, staged
from medrecon.cli.session import Session


def simulate(
    session: Session,
    image: Annotated[Path, typer.Argument(help="A magnitude image: NIfTI, DICOM or npy.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The raw file to write, fastMRI HDF5.", show_default=False)],
    modality: Annotated[str, typer.Option("--modality", help="What is simulated: mri.")] = "mri",
    coils: Annotated[int, typer.Option("--coils", min=1, help="Receive coils.")] = 8,
    snr_db: Annotated[float, typer.Option("--snr", help="Signal to noise of k-space in dB.")] = 20.0,
    seed: Seed = 0,
    read: Read = None,
    force: Force = False,
) -> None:
    """Simulate raw data from an image: coils, smooth phase, noise."""
    from medrecon import io
    from medrecon.errors import BadInput
    from medrecon.io.fastmri import write_scan
    from medrecon.physics.mri.simulate import simulate as simulated
    from medrecon.volume import Volume

    one_of("--modality", modality, ("mri",))
    check_targets([output], force)
    volume = io.read(image, **settings_of(read, "--read"))
    if not isinstance(volume, Volume):
        raise BadInput(f"{image}: holds raw data already; `medrecon recon` makes an image of it")
    session.inputs, session.settings = [image], {"modality": modality, "coils": coils, "snr_db": snr_db, "seed": seed}
    scan = simulated(volume, coils=coils, snr_db=snr_db, seed=seed)
    with staged([output], force) as place:
        write_scan(scan, place[output])
    session.outputs = [output]
    session.say(f"wrote {output}")
