"""A figure that compares runs on a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deal_core.drawing import depth_edge_picture, mask_overlay
from deal_core.errors import EvaluationError
from deal_core.files import os_errors_as, replacing
from deal_core.structures import BoolArray, ClassList, Float32Array, UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image as PILImage

_CELL_WIDTH, _GAP, _BOTTOM = 1.9, 0.05, 0.42  # inches


@dataclass(frozen=True, eq=False)
class SummaryFrame:
    """One row of `summary_figure`.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) metres.
        truth: (H, W) ids.
        predictions: One (H, W) mask per run, in the order of the runs.
        depth_valid: (H, W) bool mask of measured depth; default: finite and positive depth.
    """

    image: UInt8Array
    depth: Float32Array
    truth: UInt8Array
    predictions: Sequence[UInt8Array]
    depth_valid: BoolArray | None = None


@dataclass(frozen=True)
class SummaryRun:
    """The title of a run in `summary_figure`, and its mIoU, in [0, 1], on the whole dataset."""

    title: str
    miou: float


def summary_figure(
    path: Path,
    frames: Sequence[SummaryFrame],
    runs: Sequence[SummaryRun],
    classes: ClassList,
    *,
    title: str = "",
    max_bytes: int = 500_000,
) -> Path:
    """Write a PNG with one row per frame: image, depth edges, the mask of each run, and the truth.

    Args:
        path: Path of the PNG.
        frames: Frames of the rows, ideally three or four.
        runs: Titles and mIoU of the prediction columns.
        classes: Names and colours for masks and legend.
        title: Title of the figure.
        max_bytes: Largest file size; the resolution is reduced until the file fits.

    Raises:
        EvaluationError: the file cannot be written.
        ValueError: there is no frame, or a frame has another number of predictions than there are runs.
    """
    if not frames:
        raise ValueError("expected at least one frame, found none")
    for frame in frames:
        if len(frame.predictions) != len(runs):
            raise ValueError(f"expected {len(runs)} predictions per frame, found {len(frame.predictions)}")
    with os_errors_as(EvaluationError, f"{path} cannot be written"), replacing(path) as temporary:
        for dpi in (160, 130, 110, 90, 75, 60, 45):
            _draw_summary(temporary, frames, runs, classes, title, dpi)
            if temporary.stat().st_size <= max_bytes:
                break
    return path


def _draw_summary(
    path: Path, frames: Sequence[SummaryFrame], runs: Sequence[SummaryRun], classes: ClassList, title: str, dpi: int
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    height, width = frames[0].image.shape[:2]
    cell_height = _CELL_WIDTH * height / width
    top = 0.50 + (0.38 if title else 0.0)
    full_width = (len(runs) + 3) * (_CELL_WIDTH + _GAP) + _GAP
    full_height = top + _BOTTOM + len(frames) * (cell_height + _GAP)
    figure = Figure(figsize=(full_width, full_height), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    if title:
        figure.text(0.5, 1 - 0.22 / full_height, title, ha="center", va="center", fontsize=13, weight="bold")
    for row, frame in enumerate(frames):
        low = full_height - top - (row + 1) * cell_height - row * _GAP
        for column, picture in enumerate(_summary_row(frame, classes)):
            left = _GAP + column * (_CELL_WIDTH + _GAP)
            place = (left / full_width, low / full_height, _CELL_WIDTH / full_width, cell_height / full_height)
            axes: Axes = figure.add_axes(place)
            axes.imshow(picture, interpolation="lanczos", aspect="auto")
            axes.set_axis_off()
    _draw_headings(figure, runs, 1 - (top - 0.33) / full_height)
    _draw_legend(figure, classes)
    canvas.draw()
    page = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    _few_colors(page, classes).save(path, format="PNG", optimize=True)


def _draw_headings(figure: Figure, runs: Sequence[SummaryRun], y: float) -> None:
    """Write the title of each column, with the mIoU of a run below it, at the height `y` in [0, 1]."""
    width, height = figure.get_size_inches()
    scores = [(run.title, f"{100 * run.miou:.1f} mIoU") for run in runs]
    for column, (heading, score) in enumerate([("Image", ""), ("Depth edges", ""), *scores, ("Truth", "")]):
        x = (_GAP + column * (_CELL_WIDTH + _GAP) + _CELL_WIDTH / 2) / width
        figure.text(x, y, heading, ha="center", va="center", fontsize=9.5, color="#1a1f2b")
        figure.text(x, y - 0.18 / height, score, ha="center", va="center", fontsize=9, weight="bold")


def _draw_legend(figure: Figure, classes: ClassList) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=name)
        for name, color in zip(classes.names, classes.colors, strict=True)
    ]
    columns = min(len(classes), 10)
    figure.legend(
        handles=patches, loc="lower center", ncol=columns, frameon=False, fontsize=8.5, handlelength=1, handleheight=1
    )


def _few_colors(page: PILImage, classes: ClassList) -> PILImage:
    """Return the page in 256 colours, the colours of the classes included: a third of the file size."""
    from PIL import Image

    own = [component for color in classes.colors[:64] for component in color]
    # The other colours come from every 16th pixel: k-means over all pixels takes long and finds the same.
    sample = page.resize((max(page.width // 4, 1), max(page.height // 4, 1)), Image.Resampling.NEAREST)
    found = sample.quantize(256 - len(own) // 3, Image.Quantize.MEDIANCUT, kmeans=3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + found[: 768 - len(own)])
    return page.quantize(palette=palette, dither=Image.Dither.NONE)


def _summary_row(frame: SummaryFrame, classes: ClassList) -> list[UInt8Array]:
    edges = depth_edge_picture(frame.depth, frame.depth_valid)
    masks = (mask_overlay(frame.image, mask, classes) for mask in (*frame.predictions, frame.truth))
    return [frame.image, edges, *masks]
