"""Where the shared real data are, outside programs, seeds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"


def shared(*parts: str) -> Path:
    """A path in the folder of shared real data; skips the test where it is absent."""
    folder = Path(os.environ.get("MEDRECON_SHARED", ROOT.parent / "shared"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data not here: {'/'.join(parts)} (set MEDRECON_SHARED to the folder that holds it)")
    return path


def program(name: str) -> str:
    """The path of an outside program; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"program {name} is not installed (scripts/test lists the packages)")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the operator laws: cpu, cuda, mps")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(str(request.config.getoption("--device")))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
