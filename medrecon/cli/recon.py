"""medrecon recon: raw data in, volume out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrecon.cli.options import Device, DryRun, Force, Nan, Read, Seed, one_of, settings_of, slices_of
from medrecon.cli.outputs import check_targets, companion, is_file_name, staged
from medrecon.cli.session import Session

if TYPE_CHECKING:
    from medrecon.recon.pipeline import Reconstruction
    from medrecon.volume import Volume

RESULTS = ("mean", "std", "samples")


def recon(
    session: Session,
    scan: Annotated[Path, typer.Argument(help="Raw data: a file or folder of a supported format.", show_default=False)],
    output: Annotated[
        list[Path],
        typer.Option(
            "--output",
            "-o",
            help=".nii.gz, .h5 (fastMRI prediction), .npy/.npz, .png, else a folder of DICOM; may be repeated.",
            show_default=False,
        ),
    ],
    method: Annotated[str, typer.Option("--method", "-m", help="One of `medrecon methods`.")] = "dds",
    prior: Annotated[str, typer.Option("--prior", help="A name of `medrecon priors`, a file, or auto.")] = "auto",
    preset: Annotated[
        str | None, typer.Option("--preset", help="A named set of the method's settings.", show_default="by --samples")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Posterior draws; more than one also gives their std.")] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Iterations or noise levels.", show_default="by preset")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
    ] = None,
    slices: Annotated[str | None, typer.Option("--slices", metavar="A:B", help="Only slices A to B-1, numbered from 0.")] = None,
    max_memory: Annotated[str | None, typer.Option("--max-memory", metavar="SIZE", help="Memory for one batch, as in 2G.")] = None,
    nan: Nan = "error",
    read: Read = None,
    save: Annotated[
        str | None, typer.Option("--save", help="Which of mean, std, samples to write.", show_default="mean, and std if --samples > 1")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="R.html", help="Also write a report, one file without links.")] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="DICOM", help="Join the study of this DICOM file.", show_default=False)
    ] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Write no patient or study attributes.")] = False,
    complex_: Annotated[bool, typer.Option("--complex", help="Keep the phase in NIfTI files.")] = False,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Reconstruct raw data to a NIfTI file, a DICOM series or arrays."""
    from medrecon.compute import parse_bytes

    targets = _targets(output, _wanted(save, samples))
    everything = list(dict.fromkeys([target for _, target in targets] + ([report] if report else [])))
    check_targets(everything, force)
    own = {"nan": one_of("--nan", nan, ("error", "zero")), **settings_of(setting)}
    memory = parse_bytes(max_memory) if max_memory else None
    session.inputs = [scan]
    loaded = _load(scan, settings_of(read, "--read"), slices)
    session.settings = {
        "method": method,
        "prior": prior,
        "preset": preset,
        "samples": samples,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    arguments: dict[str, Any] = {**session.settings, **own, "max_memory": memory}
    if dry_run:
        from medrecon.recon.pipeline import plan

        session.result = {**plan(loaded, **arguments), "files": [str(path) for path in everything]}
        session.facts(session.result)
        return
    from medrecon.recon.pipeline import reconstruct

    with session.progress(method) as progress:
        result = reconstruct(loaded, progress=progress, **arguments)
    options = {"like": like, "anonymous": anonymous, "complex": complex_}
    _write(session, result, targets, report, options, force)
    _tell(session, result)


def _wanted(save: str | None, samples: int) -> list[str]:
    from medrecon.errors import BadInput

    if save is None:
        return ["mean", "std"] if samples > 1 else ["mean"]
    wanted = [one_of("--save", word.strip(), RESULTS) for word in save.split(",")]
    if samples == 1 and wanted != ["mean"]:
        raise BadInput(f"--save {save} needs several draws: give --samples 8, say")
    return wanted


def _targets(outputs: list[Path], wanted: list[str]) -> list[tuple[str, Path]]:
    """(result, where it goes), in the order of the outputs."""
    targets = [(word, output if word == "mean" else companion(output, word)) for output in outputs for word in wanted]
    return [(word, _roomy(target) if word == "samples" else target) for word, target in targets]


def _roomy(target: Path) -> Path:
    """A DICOM series or a picture holds one image a slice, so all draws go to a NIfTI file instead."""
    if is_file_name(target) and target.suffix != ".png":
        return target
    return target.with_name(target.name.removesuffix(".png") + ".nii.gz")


def _load(path: Path, options: dict[str, Any], slices: str | None) -> Any:
    from medrecon import io
    from medrecon.errors import BadInput
    from medrecon.physics.scan import Scan

    scan = io.read(path, **options)
    if not isinstance(scan, Scan):
        raise BadInput(f"{path}: holds an image, not raw data; `medrecon simulate` makes raw data from an image")
    return scan.select(slices_of(slices, scan.n_slices)) if slices else scan  # type: ignore[attr-defined]


def _write(
    session: Session,
    result: Reconstruction,
    targets: list[tuple[str, Path]],
    report: Path | None,
    options: dict[str, Any],
    force: bool,
) -> None:
    from medrecon import io
    from medrecon.recon.figures import montage

    volumes = _volumes(result)
    # A method that says nothing about uncertainty has no std; the log warns of it.
    targets = [(word, target) for word, target in targets if word in volumes]
    outputs = list(dict.fromkeys([target for _, target in targets] + ([report] if report else [])))
    with staged(outputs, force) as place:
        for word, target in targets:
            if target.suffix.lower() == ".png":
                montage(volumes[word], place[target])
            elif not place[target].exists():  # draws of two outputs may share a file
                io.write(volumes[word], place[target], **_options_for(target, options))
        if report:
            result.report(place[report])
    session.outputs = outputs


def _options_for(target: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Those that the target's format has: a series has a study, a NIfTI file can be complex."""
    names = ("complex", "anonymous") if ".nii" in target.name.lower() else () if is_file_name(target) else ("like", "anonymous")
    return {name: options[name] for name in names}


def _volumes(result: Reconstruction) -> dict[str, Volume]:
    from dataclasses import replace

    volumes = {"mean": result.volume}
    if result.std is not None:
        volumes["std"] = result.std
    if result.samples is not None:
        volumes["samples"] = replace(result.volume, image=result.samples)
    return volumes


def _tell(session: Session, result: Reconstruction) -> None:
    """Method, prior, noise with its source, chi2 and time: what a reader must know to judge the image."""
    log = result.log
    for text in log.get("warnings", []):
        session.warn(text)
    session.settings.update(log.get("settings", {}))
    session.metrics = {name: log[name] for name in ("chi2", "noise_std", "scale", "seconds") if name in log}
    session.result = log
    shown = ("method", "preset", "prior", "noise_std", "noise_source", "chi2", "seconds")
    session.facts({name: log[name] for name in shown if log.get(name) is not None})
    session.say("wrote " + ", ".join(map(str, session.outputs)))
