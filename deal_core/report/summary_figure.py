"""One figure that compares runs on a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deal_core.drawing import depth_edge_picture, mask_overlay
from deal_core.files import replacing
from deal_core.structures import BoolArray, ClassList, Float32Array, UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image as PILImage


@dataclass(frozen=True, eq=False)
class SummaryFrame:
    """One row of `summary_figure`; all arrays of one height and width.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) metres.
        truth: (H, W) ids.
        predictions: one (H, W) mask a run, in the order of the figure's runs.
        depth_valid: (H, W) bool; finite and positive depth when left out.
    """

    image: UInt8Array
    depth: Float32Array
    truth: UInt8Array
    predictions: Sequence[UInt8Array]
    depth_valid: BoolArray | None = None


@dataclass(frozen=True)
class SummaryRun:
    """A run in the heading of `summary_figure`: its title and its mIoU (0..1) on the whole set."""

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
    """Write one PNG: a row a frame; image, depth edges, each run's masks, and the truth.

    Args:
        path: the PNG to write.
        frames: the rows, three or four look best.
        runs: titles and mIoU of the columns of predictions.
        classes: names and colours, for the masks and the legend.
        title: above everything.
        max_bytes: the resolution is lowered until the file is no larger.

    Raises:
        ValueError: no frame, a frame with another number of predictions than runs.
    """
    if not frames:
        raise ValueError("expected at least one frame, found none")
    for frame in frames:
        if len(frame.predictions) != len(runs):
            raise ValueError(f"expected {len(runs)} predictions a frame, found {len(frame.predictions)}")
    with replacing(path) as temporary:
        for dpi in (160, 130, 110, 90, 75, 60, 45):
            _draw_summary(temporary, frames, runs, classes, title, dpi)
            if temporary.stat().st_size <= max_bytes:
                break
    return path


def _draw_summary(
    path: Path,
    frames: Sequence[SummaryFrame],
    runs: Sequence[SummaryRun],
    classes: ClassList,
    title: str,
    dpi: int,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from PIL import Image

    columns = [("Image", ""), ("Depth edges", "")]
    columns += [(run.title, f"{100 * run.miou:.1f} mIoU") for run in runs]
    columns.append(("Truth", ""))
    height, width = frames[0].image.shape[:2]
    cell_width = 1.9
    cell_height = cell_width * height / width
    top, bottom, gap = 0.50 + (0.38 if title else 0.0), 0.42, 0.05
    full_width = len(columns) * (cell_width + gap) + gap
    full_height = top + bottom + len(frames) * (cell_height + gap)
    figure = Figure(figsize=(full_width, full_height), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    if title:
        figure.text(0.5, 1 - 0.22 / full_height, title, ha="center", va="center", fontsize=13, weight="bold")
    for row, frame in enumerate(frames):
        for column, picture in enumerate(_summary_row(frame, classes)):
            left = gap + column * (cell_width + gap)
            low = full_height - top - (row + 1) * cell_height - row * gap
            axes: Axes = figure.add_axes(
                (left / full_width, low / full_height, cell_width / full_width, cell_height / full_height)
            )
            axes.imshow(picture, interpolation="lanczos", aspect="auto")
            axes.set_axis_off()
    for column, (heading, figures) in enumerate(columns):
        x = (gap + column * (cell_width + gap) + cell_width / 2) / full_width
        y = 1 - (top - 0.33) / full_height
        figure.text(x, y, heading, ha="center", va="center", fontsize=9.5, color="#1a1f2b")
        if figures:
            figure.text(x, y - 0.18 / full_height, figures, ha="center", va="center", fontsize=9, weight="bold")
    figure.legend(
        handles=[
            Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=name)
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        loc="lower center",
        ncol=min(len(classes), 10),
        frameon=False,
        fontsize=8.5,
        handlelength=1.0,
        handleheight=1.0,
    )
    canvas.draw()
    page = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    _few_colors(page, classes).save(path, format="PNG", optimize=True)


def _few_colors(page: PILImage, classes: ClassList) -> PILImage:
    """Return the page in at most 256 colours: a third of the bytes. The classes' own colours are among them."""
    from PIL import Image

    own = [component for color in classes.colors[:64] for component in color]
    # The others come from every 16th pixel: k-means over all of them takes long and finds the same.
    sample = page.resize((max(page.width // 4, 1), max(page.height // 4, 1)), Image.Resampling.NEAREST)
    found = sample.quantize(256 - len(own) // 3, Image.Quantize.MEDIANCUT, kmeans=3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + found[: 768 - len(own)])
    return page.quantize(palette=palette, dither=Image.Dither.NONE)


def _summary_row(frame: SummaryFrame, classes: ClassList) -> list[UInt8Array]:
    edges = depth_edge_picture(frame.depth, frame.depth_valid)
    masks = (mask_overlay(frame.image, mask, classes) for mask in (*frame.predictions, frame.truth))
    return [frame.image, edges, *masks]
