"""How options are read: literals, slices, files of options, the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Medrecon, make_image, make_scan, running  # noqa: F401

from medrecon.cli.options import literal, settings_of, slices_of
from medrecon.cli.outputs import companion
from medrecon.errors import BadInput


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("[1, 2]", [1, 2]),
        ("(3,4)", (3, 4)),
        ("haar", "haar"),
        ("'3'", "3"),
        ("", ""),
    ],
)
def test_a_setting_is_a_literal_or_text(text: str, value: Any) -> None:
    assert literal(text) == value
    assert type(literal(text)) is type(value)


def test_a_setting_is_never_run() -> None:
    text = "__import__('os').system('echo ran')"
    assert literal(text) == text


def test_files_among_the_settings_are_paths() -> None:
    assert settings_of(["maps=1.npy", "weight=1.5", "map-crop=0.8"]) == {"maps": Path("1.npy"), "weight": 1.5, "map_crop": 0.8}


@pytest.mark.parametrize(
    ("text", "expected"), [("1:3", (1, 3)), (":2", (0, 2)), ("-2:", (8, 10)), ("4", (4, 5)), ("-1", (9, 10)), (":", (0, 10))]
)
def test_slices_are_read_as_python_reads_them(text: str, expected: tuple[int, int]) -> None:
    found = slices_of(text, 10)
    assert (found.start, found.stop) == expected


@pytest.mark.parametrize("text", ["3:3", "12:", "1:2:3", "x", "10"])
def test_slices_that_select_nothing_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--slices"):
        slices_of(text, 10)


def test_companions_keep_the_ending() -> None:
    assert companion(Path("a/image.nii.gz"), "std") == Path("a/image_std.nii.gz")
    assert companion(Path("a/series"), "std") == Path("a/series_std")
    assert companion(Path("a/b.c"), "std") == Path("a/b.c_std")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that the planning function gets."""
    from medrecon.recon import pipeline

    arguments: dict[str, Any] = {}

    def plan(scan: Any, **more: Any) -> dict[str, Any]:
        arguments.update(more)
        return {}

    monkeypatch.setattr(pipeline, "plan", plan)
    return arguments


def test_a_flag_goes_before_the_file_and_the_file_before_the_environment(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, called: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "options.toml"
    config.write_text(
        'samples = 4\nseed = 5\n[recon]\nmethod = "sense"\nmax-memory = "2G"\n'
        '[recon.set]\nweight = 0.5\nname = "haar"\n[info]\nphi = true\n'
    )
    monkeypatch.setenv("MEDRECON_SEED", "7")
    monkeypatch.setenv("MEDRECON_STEPS", "9")
    answer = medrecon("recon", scan_file, "-o", tmp_path / "x.npy", "--dry-run", "--config", config, "--samples", 3)
    assert answer.code == 0, answer.err
    wanted = {"samples": 3, "seed": 5, "steps": 9, "method": "sense", "max_memory": 2 << 30, "weight": 0.5, "name": "haar", "prior": "auto"}
    assert {name: called[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("sampels = 3", "did you mean 'samples'"),
        ("samples = ", "not a TOML file"),
        ('samples = "many"', "'--samples'"),
        ("[recon]\nmehtod = 'dds'", "did you mean 'method'"),
    ],
)
def test_a_bad_file_of_options_is_explained(medrecon: Medrecon, scan_file: Path, tmp_path: Path, text: str, advice: str) -> None:
    config = tmp_path / "options.toml"
    config.write_text(text)
    answer = medrecon("recon", scan_file, "-o", tmp_path / "x.npy", "--config", config)
    assert answer.code == 2
    assert advice in answer.err
    assert answer.err.count("\n") == 1
