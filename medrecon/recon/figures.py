"""Pictures of volumes as PNG bytes: slices side by side, turned as a radiologist expects them, in mm proportions."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medrecon.files import atomic_file
from medrecon.tensors import quantile
from medrecon.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TILES = 12
BACKGROUND = "#101418"


@dataclass(frozen=True)
class Planes:
    """Slices (n, row, column) as they are shown. `aspect`: height of a pixel by its width. `edges`: the patient
    direction at the left, right, top and bottom, empty where the orientation is unknown. `numbers`: z indices."""

    pixels: NDArray[np.float32]
    aspect: float
    edges: tuple[str, str, str, str]
    numbers: list[int]


def planes(volume: Volume, most: int = MOST_TILES) -> Planes:
    """At most `most` evenly spaced z slices of the (first) magnitude image.

    Where the orientation is known they are turned so that the patient's right is at the left of the picture and
    anterior (or superior) at its top; otherwise rows and columns are y and x as stored.
    """
    image = volume.magnitude.image.detach().reshape(-1, *volume.grid.shape)[0]
    count = min(most, image.shape[0])
    numbers = sorted({round((i + 0.5) * image.shape[0] / count - 0.5) for i in range(count)})
    pixels = image[numbers].float().cpu().numpy()
    _, dy, dx = volume.spacing
    if volume.orientation == "unknown":
        return Planes(pixels, dy / dx, ("", "", "", ""), numbers)
    x_to, y_to = volume.grid.axis_codes[0], volume.grid.axis_codes[1]
    # Columns run along left-right where that lies in the plane, else along anterior-posterior (sagittal slices).
    if "LR".find(y_to) >= 0 or ("LR".find(x_to) < 0 and y_to in "AP"):
        pixels, x_to, y_to, dx, dy = pixels.swapaxes(1, 2), y_to, x_to, dy, dx
    if x_to in "RA":
        pixels, x_to = pixels[:, :, ::-1], OPPOSITE[x_to]
    if y_to in "AS":
        pixels, y_to = pixels[:, ::-1], OPPOSITE[y_to]
    return Planes(pixels, dy / dx, (OPPOSITE[x_to], x_to, OPPOSITE[y_to], y_to), numbers)


OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


def window(volume: Volume) -> tuple[float, float]:
    """Grey values for black and white: 0 (or the smallest value, if negative) to the 99.7th percentile."""
    image = volume.magnitude.image.detach().float()
    low, high = min(float(image.min()), 0.0), float(quantile(image, 0.997))
    return low, high if high > low else low + 1.0


def tiles(
    volume: Volume, limits: tuple[float, float] | None = None, *, colours: str = "gray", bar: str | None = None, most: int = MOST_TILES
) -> bytes:
    """PNG of the slices of one volume with a common window; `bar`: the title of a colour bar, None for none."""
    shown = planes(volume, most)
    low, high = limits or window(volume)
    columns = _columns(len(shown.numbers), shown)
    rows = math.ceil(len(shown.numbers) / columns)
    height, width = shown.pixels.shape[1] * shown.aspect, shown.pixels.shape[2]
    # A slice that stands alone may be large; a montage fills one page's width.
    tile = min(6.0, 11.0 / columns)
    figure = _figure(tile * columns + (1.2 if bar else 0), tile * rows * height / width)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    picture = None
    for axis in axes:
        axis.set_axis_off()
    for axis, pixels, number in zip(axes, shown.pixels, shown.numbers, strict=False):
        picture = axis.imshow(pixels, cmap=colours, vmin=low, vmax=high, aspect=shown.aspect, interpolation="nearest")
        _mark(axis, shown, number, volume.grid.shape[0] > 1)
    if bar and picture is not None:
        _bar(figure, picture, axes, bar)
    return _png(figure)


def curve(values: list[float], title: str, item: str = "slice", *, expected: float | None = None) -> bytes:
    """PNG of one number an item, with a line at the value that is expected."""
    figure = _figure(7.0, 2.2)
    figure.set_facecolor("white")
    axis = figure.subplots()
    axis.plot(range(len(values)), values, marker="o", markersize=3, linewidth=1, color="#1f6f8b")
    if expected is not None:
        axis.axhline(expected, color="#999999", linestyle="--", linewidth=1)
    axis.set_xlabel(item)
    axis.set_ylabel(title)
    axis.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def montage(volume: Volume, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Writes the slices of a volume as one PNG file; the path."""
    with atomic_file(path, force) as temporary:
        temporary.write_bytes(tiles(volume))
    return Path(path)


def _columns(count: int, shown: Planes) -> int:
    """As many columns as make a page-wide picture that is not taller than wide."""
    wide = shown.pixels.shape[1] * shown.aspect / shown.pixels.shape[2]
    return max(1, min(count, math.ceil(math.sqrt(count * max(wide, 0.5)))))


def _mark(axis: Any, shown: Planes, number: int, numbered: bool) -> None:
    """Slice number and patient directions, small, inside the picture."""
    style = {"transform": axis.transAxes, "color": "#ffd166", "fontsize": 8}
    if numbered:
        axis.text(0.02, 0.98, f"{number}", va="top", ha="left", **style)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for edge, (x, y, ha, va) in zip(shown.edges, places, strict=True):
        if edge:
            axis.text(x, y, edge, ha=ha, va=va, **style)


def _bar(figure: Figure, picture: Any, axes: Any, title: str) -> None:
    bar = figure.colorbar(picture, ax=list(axes), fraction=0.04, pad=0.01)
    bar.set_label(title, color="white")
    bar.ax.tick_params(colors="white", labelsize=8)


def _figure(width: float, height: float) -> Figure:
    """A figure of its own: pyplot would keep it, and choose a window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, max(height, 1.0)), facecolor=BACKGROUND, layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # The date and version that matplotlib would add make equal pictures differ.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
