"""Broken and hostile DICOM: always one MedreconError that names the file, never a traceback, never gigabytes."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from placed_volumes import placed
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless

from medrecon.errors import MedreconError, MissingExtra
from medrecon.io import dicom_read, dicom_write


def whole(file: Path) -> None:
    (written,) = dicom_write.write(placed(shape=(1, 13, 16)), file.with_suffix(""))
    written.rename(file)


def changed(**attributes: object) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        whole(file)
        dataset = pydicom.dcmread(file)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(file)

    return make


def cut_pixels(file: Path) -> None:
    whole(file)
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(file: Path) -> None:
    whole(file)
    file.write_bytes(file.read_bytes()[:700])


def cut_meta(file: Path) -> None:
    whole(file)
    file.write_bytes(file.read_bytes()[:150])


def preamble_alone(file: Path) -> None:
    file.write_bytes(bytes(128) + b"DICM")


def noise(file: Path) -> None:
    file.write_bytes(bytes(128) + b"DICM" + bytes(range(256)) * 20)


def no_image(file: Path) -> None:
    file.write_bytes(b"not DICOM at all" * 100)


def nested(file: Path) -> None:
    """3000 sequences in one another, written by hand since the writer would not survive it either."""
    whole(file)
    item = b""
    for _ in range(3000):
        inner = b"\xfe\xff\x00\xe0" + struct.pack("<I", 0xFFFFFFFF) + item + b"\xfe\xff\x0d\xe0" + bytes(4)
        item = b"\x08\x00\x40\x11SQ\x00\x00" + struct.pack("<I", 0xFFFFFFFF) + inner + b"\xfe\xff\xdd\xe0" + bytes(4)
    content, tag = file.read_bytes(), b"\x08\x00\x16\x00UI"
    place = content.index(tag, 300)
    file.write_bytes(content[:place] + item + content[place:])


def deflated_bomb(file: Path) -> None:
    """A valid deflated file of 200 kB that holds 200 MB."""
    whole(file)
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    buffer = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, dataset.file_meta)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    private = b"\x09\x00\x10\x00OB\x00\x00" + struct.pack("<I", 200_000_000)
    body = squeeze.compress(private) + b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(200)) + squeeze.flush()
    file.write_bytes(bytes(128) + b"DICM" + buffer.getvalue() + body)


HOSTILE = {
    "cut_pixels": cut_pixels,
    "cut_header": cut_header,
    "cut_meta": cut_meta,
    "preamble_alone": preamble_alone,
    "noise": noise,
    "no_image": no_image,
    "huge_rows": changed(Rows=65535, Columns=65535),
    "no_rows": changed(Rows=0),
    "many_frames": changed(NumberOfFrames=1_000_000_000),
    "negative_frames": changed(NumberOfFrames=-3),
    "missing_frame_groups": changed(NumberOfFrames=1, PerFrameFunctionalGroupsSequence=[Dataset(), Dataset()]),
    "odd_bits": changed(BitsAllocated=13),
    "zero_spacing": changed(PixelSpacing=[0, 1]),
    "slanted_directions": changed(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    "zero_directions": changed(ImageOrientationPatient=[0] * 6),
    "no_pixels": changed(PixelData=b""),
    "nested": nested,
    "deflated_bomb": deflated_bomb,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("alone", [True, False], ids=["file", "folder"])
def test_hostile_file_is_one_error_with_its_name(tmp_path: Path, kind: str, alone: bool) -> None:
    file = tmp_path / f"{kind}.dcm"
    HOSTILE[kind](file)
    with pytest.raises(MedreconError, match=kind if alone or kind != "no_image" else "no DICOM image"):
        dicom_read.read(file if alone else tmp_path)


def test_deflated_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    deflated_bomb(tmp_path / "bomb.dcm")
    assert (tmp_path / "bomb.dcm").stat().st_size < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(MedreconError, match="inflate"):
            dicom_read.header(tmp_path / "bomb.dcm")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_honest_deflated_file_is_read(tmp_path: Path) -> None:
    whole(tmp_path / "a.dcm")
    plain = dicom_read.read(tmp_path / "a.dcm").image
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(tmp_path / "a.dcm")
    assert (dicom_read.read(tmp_path / "a.dcm").image == plain).all()


def test_missing_decoder_is_said_with_the_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    whole(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(500)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(MissingExtra, match="JPEG 2000"):
        dicom_read.read(tmp_path / "a.dcm")


def test_damaged_file_in_a_series_is_an_error_not_a_gap(tmp_path: Path) -> None:
    dicom_write.write(placed(), tmp_path / "s")
    file = tmp_path / "s" / "00002.dcm"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(MedreconError, match=r"00002\.dcm"):
        dicom_read.read(tmp_path / "s")
