"""Progress, warnings, JSON types, errors of the system."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.cli import progress as progresses
from medrecon.cli.session import Session, diagnosis, jsonable, plain


def test_without_a_terminal_progress_is_a_line_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, *range(0, 100, 10)])
    monkeypatch.setattr(progresses.time, "monotonic", lambda: float(next(clock)))
    with Session("recon", started=0.0).progress("dds") as progress:
        for step in range(10):
            progress(step, 10, "sampling")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["dds: sampling, 3 of 10, 30 s", "dds: sampling, 6 of 10, 60 s", "dds: sampling, 9 of 10, 90 s"]


def test_a_quiet_session_shows_no_progress_but_warnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "SECONDS_BETWEEN_LINES", 0.0)
    session = Session("recon", quiet=True)
    with session.progress("dds") as progress:
        progress(1, 2, "x")
    session.say("hidden")
    session.warn("shown\nonce")
    session.warn("shown once")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "warning: shown once\n"


def test_python_warnings_become_lines_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session("recon")
    with session.listening():
        warnings.warn_explicit("the scan has no noise scan", UserWarning, "x.py", 1, module="medrecon.physics")
        warnings.warn_explicit("not for users", DeprecationWarning, "x.py", 1, module="torch")
    assert session.warnings == ["the scan has no noise scan"]
    assert capsys.readouterr().err == "warning: the scan has no noise scan\n"


def test_log_messages_become_lines_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (0, 1):
        session = Session("recon", verbose=verbose)
        with session.listening():
            logging.getLogger("medrecon").warning("%s: orientation unknown", "a.nii")
            logging.getLogger("medrecon").info("a detail")
        assert session.warnings == ["a.nii: orientation unknown"]
        assert capsys.readouterr().err == "warning: a.nii: orientation unknown\n" + "a detail\n" * verbose


def test_json_holds_only_what_json_has() -> None:
    value = {"a": np.float32(1.5), "b": torch.ones(2), "c": float("nan"), "d": Path("x"), "e": (1, range(2)), 3: np.int64(2), "f": True}
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == {
        "a": 1.5,
        "b": [1.0, 1.0],
        "c": None,
        "d": "x",
        "e": [1, [0, 1]],
        "3": 2,
        "f": True,
    }


def test_plain_text_of_values() -> None:
    assert plain({"a": 0.123456, "b": [1, True, None]}) == "a 0.1235, b 1, yes, -"


def test_errors_of_the_system_name_the_file() -> None:
    code, message, _, exit_code = diagnosis(PermissionError(13, "Permission denied", "secret.h5"))
    assert (code, message, exit_code) == ("system", "secret.h5: permission denied", 2)
