"""The report stands alone, and its pictures show the patient the right way round."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput, OutputExists
from medrecon.recon.figures import montage, planes, tiles
from medrecon.recon.report import write_report
from medrecon.volume import Grid, Volume


def blob(affine: np.ndarray, shape: tuple[int, int, int], place: tuple[float, float, float]) -> Volume:
    """One bright voxel at a place in RAS mm."""
    x, y, z = np.round(np.linalg.inv(affine) @ [*place, 1.0])[:3].astype(int)
    image = torch.zeros(shape)
    image[z, y, x] = 1
    return Volume(image, Grid(shape, affine))


AXES = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "signs"), AXES)
def test_left_is_at_the_right_and_anterior_or_superior_at_the_top(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs
    shape = (9, 9, 9)
    affine[:3, 3] = -affine[:3, :3] @ [4, 4, 4]
    left, anterior, superior = (-3.0, 0, 0), (0, 3.0, 0), (0, 0, 3.0)
    through = order[2]  # the patient axis along z, the axis of slices
    for place, axis in ((left, 0), (anterior, 1), (superior, 2)):
        if axis == through:
            continue
        shown = planes(blob(affine, shape, place))
        row, column = np.argwhere(shown.pixels.max(0) == 1)[0]
        if axis == 0:
            assert column > 4, "the patient's left is not at the right"
            assert shown.edges[1] == "L"
        elif axis == 2 or through == 2:
            assert row < 4, "anterior or superior is not at the top"
            assert shown.edges[2] == ("S" if axis == 2 else "A")
        else:
            assert column < 4, "sagittal: anterior is not at the left"
            assert shown.edges[0] == "A"


def test_an_unknown_orientation_is_shown_as_stored_without_letters() -> None:
    image = torch.rand(3, 4, 5)
    shown = planes(Volume(image, Grid.unplaced((3, 4, 5), (3, 2, 1))))
    np.testing.assert_array_equal(shown.pixels, image.numpy())
    assert shown.edges == ("", "", "", "")
    assert shown.aspect == pytest.approx(2)


def test_few_slices_are_all_shown_and_many_are_spread() -> None:
    assert planes(Volume(torch.rand(5, 4, 4), Grid.unplaced((5, 4, 4)))).numbers == [0, 1, 2, 3, 4]
    numbers = planes(Volume(torch.rand(100, 4, 4), Grid.unplaced((100, 4, 4)))).numbers
    assert len(numbers) == 12
    assert numbers[0] < 10
    assert numbers[-1] > 90


def test_pictures_are_the_same_every_time() -> None:
    volume = Volume(torch.rand(2, 8, 8), Grid.unplaced((2, 8, 8)))
    assert tiles(volume) == tiles(volume)


def test_a_constant_image_is_no_error() -> None:
    for value in (0.0, 1.0, -1000.0):
        assert tiles(Volume(torch.full((1, 4, 4), value), Grid.unplaced((1, 4, 4))))[1:4] == b"PNG"


def test_montage_does_not_replace_a_file_unasked(tmp_path: Path) -> None:
    volume = Volume(torch.rand(1, 4, 4, dtype=torch.complex64), Grid.unplaced((1, 4, 4)))
    assert montage(volume, tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(OutputExists):
        montage(volume, tmp_path / "a.png")


class Links(HTMLParser):
    """Everything that a browser would fetch, and whether tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    grid = Grid.unplaced((3, 8, 8))
    volume = Volume(torch.rand(3, 8, 8, dtype=torch.complex64), grid, provenance={"inputs": [{"path": "<scan>.h5"}]})
    std, truth = Volume(torch.rand(3, 8, 8) / 10, grid), Volume(torch.rand(3, 8, 8), grid)
    log = {"method": "dds", "chi2": 1.01, "settings": {"steps": 50}, "warnings": ["a <b>warning</b>"], "chi2_per_slice": [1.0, 1.1, 0.9]}
    path = write_report(tmp_path / "r.html", volume, log, std=std, reference=truth, title="A & B")
    text = path.read_text("utf-8")
    page = Links()
    page.feed(text)
    assert page.open == []
    assert len(page.fetched) == 5
    assert all(link.startswith("data:image/png;base64,") for link in page.fetched)
    assert not re.search(r"url\(|@import|<script", text)
    for words in (
        "A &amp; B",
        "&lt;b&gt;warning",
        "&lt;scan&gt;.h5",
        "dds",
        "NMSE",
        "orientation in the patient is unknown",
        "not for diagnosis",
    ):
        assert words in text


def test_a_reference_on_another_grid_is_refused(tmp_path: Path) -> None:
    volume, other = (Volume(torch.rand(shape), Grid.unplaced(shape)) for shape in ((2, 4, 4), (3, 4, 4)))
    with pytest.raises(BadInput, match="reference has shape"):
        write_report(tmp_path / "r.html", volume, {}, reference=other)
    assert not (tmp_path / "r.html").exists()
