"""medrecon doctor: is this installation sound?"""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from medrecon.cli.session import Session

PROGRAMS = {
    "bart": "compared with in tests",
    "dciodvfy": "checks DICOM files",
    "dcm2niix": "compared with in tests",
    "dcmdump": "shows DICOM files",
}
FOR_USERS = ("ismrmrd", "demo")
LEAST_FREE_BYTES = 1 << 30


class Check(NamedTuple):
    """What was looked at, PASS, WARN or FAIL, and what was found."""

    name: str
    status: str
    found: str


def doctor(session: Session) -> None:
    """Check versions, devices, extras, programs, writing and the mathematics; exit code 1 if anything fails."""
    checks = list(examination())
    session.result = [check._asdict() for check in checks]
    session.table(("check", "status", "found"), checks)
    if any(check.status == "FAIL" for check in checks):
        session.exit_code = 1


def examination() -> Iterator[Check]:
    """Every check; one that breaks is a FAIL with the reason, and the rest goes on."""
    for section in (_python, _packages, _programs, _devices, _writing, _adjoint, _priors):
        try:
            yield from section()
        except Exception as error:
            yield Check(section.__name__.strip("_"), "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check("python", "PASS" if sys.version_info >= (3, 10) else "FAIL", found)
    yield Check("medrecon", "PASS", version("medrecon"))


def _packages() -> Iterator[Check]:
    """What setup.cfg asks for: without a required package it is a FAIL, without an optional one a WARN."""
    everywhere = [line for line in requires("medrecon") or [] if "python_version" not in line]  # others stand in on old Pythons
    for line in everywhere:
        name = re.split(r"[^A-Za-z0-9._-]", line)[0]
        extra = re.search(r"""extra == ['"](\w+)['"]""", line)
        if extra is None:
            yield _installed(name, "FAIL", "missing: install medrecon again")
        elif extra[1] in FOR_USERS:
            yield _installed(name, "WARN", f"not installed; optional: pip install 'medrecon[{extra[1]}]'")


def _installed(name: str, missing: str, advice: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, missing, advice)
    try:
        importlib.import_module({"scikit-image": "skimage"}.get(name, name))
    except Exception as error:
        return Check(name, missing, f"{found} does not import: {type(error).__name__}: {' '.join(str(error).split())}")
    return Check(name, "PASS", found)


def _programs() -> Iterator[Check]:
    for name, purpose in PROGRAMS.items():
        path = shutil.which(name)
        yield Check(name, "PASS" if path else "WARN", path or f"not installed; optional, {purpose}")


def _devices() -> Iterator[Check]:
    import torch

    from medrecon.compute import GIB, choose_device, free_memory

    cpu = torch.device("cpu")
    yield Check("cpu", "PASS", f"{torch.get_num_threads()} threads, {free_memory(cpu) / GIB:.1f} GiB free")
    chosen = choose_device()
    if chosen.type == "cuda":
        yield Check("cuda", "PASS", f"{torch.cuda.get_device_name(chosen)}, {free_memory(chosen) / GIB:.1f} GiB free")
    else:
        yield Check("cuda", "PASS", "none; the CPU is used")


def _writing() -> Iterator[Check]:
    for name, folder in (("write here", Path.cwd()), ("write temporary", Path(tempfile.gettempdir()))):
        with tempfile.NamedTemporaryFile(prefix=".medrecon-", dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free
        yield Check(name, "PASS" if free > LEAST_FREE_BYTES else "WARN", f"{folder}, {free / (1 << 30):.1f} GiB free")


def _adjoint() -> Iterator[Check]:
    """<A x, y> = <x, A^H y> for a small SENSE operator, on the device that recon would use."""
    import torch

    from medrecon.compute import choose_device
    from medrecon.linop.laws import adjoint_error, random
    from medrecon.physics.mri import sense

    device = choose_device()
    maps = random((4, 32, 24), torch.complex64, "maps", device)
    mask = (torch.arange(32, device=device) % 2 == 0).reshape(-1, 1)
    error = adjoint_error(sense(maps, mask), torch.complex64)
    yield Check(f"adjoint on {device.type}", "PASS" if error < 1e-4 else "FAIL", f"relative error {error:.1e}")


def _priors() -> Iterator[Check]:
    from medrecon import prior

    names = list(prior.available())
    for name in names:
        prior.load(name)
    yield Check("priors", "PASS" if names else "WARN", ", ".join(names) or "none shipped: methods that need one take --prior FILE")
