"""Commands run in this process, and a small scan to run them on: fixtures that the tests beside import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from medrecon.cli.main import run


class Answer(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; fails when there is anything else."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Medrecon = Callable[..., Answer]


@pytest.fixture(name="medrecon")
def running(capsys: pytest.CaptureFixture[str]) -> Medrecon:
    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return call


def head() -> np.ndarray:
    """A bright ellipse with two darker ones, (slice, y, x), not symmetric in any axis."""
    z, y, x = np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    image = ((x / 0.75) ** 2 + (y / 0.85) ** 2 < 1).astype(np.float32)
    image -= 0.5 * (((x - 0.2) / 0.2) ** 2 + ((y - 0.3) / 0.3) ** 2 < 1)
    image -= 0.3 * (((x + 0.3) / 0.15) ** 2 + ((y + 0.3) / 0.2) ** 2 < 1)
    return (image * (1 + 0.2 * z)).astype(np.float32)


@pytest.fixture(scope="module", name="image_file")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "head.npy"
    np.save(path, head())
    return path


@pytest.fixture(scope="module", name="scan_file")
def make_scan(image_file: Path) -> Path:
    """Simulated k-space of 3 slices, 4 coils, 48 x 40, every other line and a full centre."""
    full, scan = image_file.with_name("full.h5"), image_file.with_name("scan.h5")
    assert run(["simulate", str(image_file), "-o", str(full), "--coils", "4", "--snr", "25", "-q"]) == 0
    assert run(["undersample", str(full), "-o", str(scan), "-R", "2", "--mask", "equispaced", "--center-fraction", "0.5", "-q"]) == 0
    return scan
