"""medrecon recon: what it writes, says and refuses."""

from __future__ import annotations

import errno
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Medrecon, make_image, make_scan, running  # noqa: F401

KEYS = ["schema", "command", "status", "inputs", "outputs", "settings", "metrics", "warnings", "errors", "seconds", "peak_memory_bytes"]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_scan_becomes_a_nifti_file_where_it_was_asked_for(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    import nibabel

    answer = medrecon("recon", scan_file, "-o", tmp_path / "new" / "image.nii.gz", "--method", "sense")
    assert answer.code == 0, answer.err
    image = nibabel.load(tmp_path / "new" / "image.nii.gz")
    assert image.shape == (40, 48, 3)
    for word in ("method", "sense", "noise_std", "chi2", "seconds", "wrote"):
        assert word in answer.out
    assert left_over(tmp_path / "new") == ["image.nii.gz"]


def test_json_is_one_object_with_the_promised_keys(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.npy"
    answer = medrecon("recon", scan_file, "-o", target, "--method", "rss", "--json")
    assert answer.code == 0, answer.err
    found = answer.json
    assert [key for key in found if key in KEYS] == KEYS
    assert found["schema"] == 1
    assert found["command"] == "recon"
    assert found["status"] == "done"
    assert found["outputs"] == [{"path": str(target), "sha256": hashlib.sha256(target.read_bytes()).hexdigest()}]
    assert found["inputs"] == [str(scan_file)]
    assert found["peak_memory_bytes"] > 1 << 20


def test_a_dry_run_names_the_files_and_writes_nothing(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    answer = medrecon("recon", scan_file, "-o", tmp_path / "deep" / "image.nii.gz", "--method", "sense", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["result"]["files"] == [str(tmp_path / "deep" / "image.nii.gz")]
    assert answer.json["outputs"] == []
    assert left_over(tmp_path) == []


def test_one_run_writes_several_formats_and_a_report(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("image.nii.gz", "series", "picture.png", "report.html")]
    answer = medrecon(
        "recon", scan_file, "-o", outputs[0], "-o", outputs[1], "-o", outputs[2], "--report", outputs[3], "--method", "rss", "--json"
    )
    assert answer.code == 0, answer.err
    assert [Path(entry["path"]) for entry in answer.json["outputs"]] == outputs
    assert outputs[2].read_bytes()[1:4] == b"PNG"
    assert len(list(outputs[1].iterdir())) == 3


def test_the_phase_is_kept_when_asked_for(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.nii.gz", "--method", "sense", "--complex")
    assert answer.code == 0, answer.err
    assert np.iscomplexobj(nibabel.load(tmp_path / "image.nii.gz").dataobj)


def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any reconstruction a failure of the test: the refusal must come before the work."""
    from medrecon.recon import pipeline

    def work(*args: Any, **more: Any) -> None:
        pytest.fail("the work began before the output was checked")

    monkeypatch.setattr(pipeline, "reconstruct", work)


def test_an_existing_output_is_refused_before_the_work(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch)
    target = tmp_path / "image.npy"
    target.write_text("mine")
    answer = medrecon("recon", scan_file, "-o", target)
    assert answer.code == 2
    assert answer.err == f"error: {target} already exists: choose another name or give --force\n"
    assert target.read_text() == "mine"


def test_an_existing_companion_is_refused_before_the_work(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch)
    (tmp_path / "image_std.nii.gz").write_text("mine")
    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.nii.gz", "--samples", 4)
    assert answer.code == 2
    assert "image_std.nii.gz already exists" in answer.err


def test_force_replaces_a_file_and_a_series(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "image.npy", tmp_path / "series"):
        for force in ([], ["--force"]):
            answer = medrecon("recon", scan_file, "-o", target, "--method", "rss", *force)
            assert answer.code == 0, answer.err
    assert len(list((tmp_path / "series").iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.npy", "series"]


def test_force_never_replaces_a_folder_of_other_things(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    answer = medrecon("recon", scan_file, "-o", tmp_path / "home", "--force")
    assert answer.code == 2
    assert "holds thesis.tex, which is no DICOM file" in answer.err
    assert (tmp_path / "home" / "thesis.tex").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root cannot write")
def test_an_unwritable_output_is_refused_before_the_work(medrecon: Medrecon, scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch)
    answer = medrecon("recon", scan_file, "-o", "/proc/image.nii.gz")
    assert answer.code == 2
    assert "cannot write in /proc" in answer.err


def test_an_output_inside_a_file_is_refused(medrecon: Medrecon, scan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch)
    answer = medrecon("recon", scan_file, "-o", scan_file / "image.nii.gz")
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert "cannot write" in answer.err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--method", "l1_wavelets"], "did you mean 'l1_wavelet'"),
        (["--method", "sense", "--set", "noise_sdt=1"], "did you mean 'noise_std'"),
        (["--method", "rss", "--nan", "zeros"], "did you mean 'zero'"),
        (["--save", "mean,sdt"], "did you mean 'std'"),
        (["--method", "sense", "--preset", "nonsense"], "nonsense"),
        (["--prior", "brian"], "brian"),
        (["--device", "gpu7"], "expected auto, cpu, cuda"),
        (["--max-memory", "lots"], "expected a number with K, M, G or T"),
        (["--slices", "5:9"], "the scan has 3 slices"),
        (["--slices", "a:b"], "expected a:b with whole numbers"),
        (["--set", "weight"], "expected key=value"),
        (["--set", "weight=1", "--set", "weight=2"], "given twice"),
        (["--save", "samples"], "needs several draws"),
        (["--methods", "dds"], "--method"),
        (["--samples", "0"], "samples"),
    ],
)
def test_a_bad_argument_is_one_line_that_says_what_to_do(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, arguments: list[str], advice: str
) -> None:
    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.npy", *arguments)
    assert answer.code == 2, answer.err
    assert advice in answer.err
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert left_over(tmp_path) == []


def test_bad_arguments_answer_in_json_too(medrecon: Medrecon, scan_file: Path) -> None:
    answer = medrecon("recon", scan_file, "--json", "--nonsense")
    assert answer.code == 2
    assert answer.json["status"] == "bad input"
    assert "--nonsense" in answer.json["errors"][0]["message"]


def test_a_file_that_is_not_there_is_named_with_its_neighbours(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    answer = medrecon("recon", scan_file.with_name("scann.h5"), "-o", tmp_path / "image.npy")
    assert answer.code == 2
    assert "scann.h5: no such file; the folder holds" in answer.err


def test_an_image_is_no_scan(medrecon: Medrecon, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    answer = medrecon("recon", tmp_path / "image.nii.gz", "-o", tmp_path / "out.nii.gz")
    assert answer.code == 2
    assert "holds an image, not raw data" in answer.err


def test_slices_keep_their_place(medrecon: Medrecon, scan_file: Path, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    for name, more in (("all", []), ("part", ["--slices", "1:3"])):
        answer = medrecon("recon", scan_file, "-o", tmp_path / f"{name}.nii.gz", "--method", "rss", *more)
        assert answer.code == 0, answer.err
    whole, part = nibabel.load(tmp_path / "all.nii.gz"), nibabel.load(tmp_path / "part.nii.gz")
    assert part.shape[2] == 2
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], whole.affine @ [0, 0, 1, 1], atol=1e-4)
    np.testing.assert_allclose(part.get_fdata(), whole.get_fdata()[:, :, 1:], rtol=1e-4, atol=1e-6)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from medrecon.recon import pipeline

    def broken(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "reconstruct", broken)


def test_a_fault_of_ours_is_one_line_and_the_way_to_see_more(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.npy")
    assert answer.code == 1
    assert answer.err == "error: ZeroDivisionError: division by zero (a fault in medrecon: run again with --debug to see where)\n"
    assert "Traceback" in medrecon("recon", scan_file, "-o", tmp_path / "image.npy", "--debug").err
    assert left_over(tmp_path) == []


def test_running_out_of_memory_says_what_to_do(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, MemoryError())
    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.npy")
    assert answer.code == 1
    assert "--max-memory" in answer.err


def test_a_full_disk_leaves_nothing(medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medrecon import files

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "_sync", full)
    answer = medrecon("recon", scan_file, "-o", tmp_path / "new" / "image.nii.gz", "--method", "rss", "--json")
    assert answer.code == 2
    assert "the disk is full" in answer.json["errors"][0]["message"]
    assert left_over(tmp_path) == []


def test_when_the_second_output_fails_the_first_is_not_there(
    medrecon: Medrecon, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrecon.recon import figures

    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figures, "montage", full)
    answer = medrecon("recon", scan_file, "-o", tmp_path / "image.npy", "-o", tmp_path / "image.png", "--method", "rss")
    assert answer.code != 0
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_writing_leaves_nothing(scan_file: Path, tmp_path: Path, stop: signal.Signals) -> None:
    target = tmp_path / "new" / "image.npy"
    code = f"""
import sys, time
import medrecon.io
written = medrecon.io.write
def slow(*args, **more):
    written(*args, **more)
    print("writing", flush=True)
    time.sleep(60)
medrecon.io.write = slow
sys.argv = ["medrecon", "recon", {str(scan_file)!r}, "-o", {str(target)!r}, "--method", "rss"]
from medrecon.cli.main import main
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    started = time.monotonic()
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err == "error: interrupted: nothing was written\n"
    assert time.monotonic() - started < 20
    assert left_over(tmp_path) == []
