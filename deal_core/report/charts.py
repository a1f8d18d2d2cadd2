"""Line charts as SVG elements of a page, transparent and in the font and text colour of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES_COLORS = ("#2f80d8", "#e8762b", "#1fa37a", "#c74f9e", "#8b6be0", "#b08d12", "#2aa5b8", "#d9534f")
"""Colours of runs: distinguishable with colour blindness, readable on white and on near-black."""

_INK = "#010203"  # Placeholder for the text colour of the page


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart.

    Args:
        x: (N,) increasing values.
        y: (N,) values, nan where undefined.
        color: Colour as `#rrggbb`.
        dashed: Whether the line is dashed, for a reference.
        faint: Whether the line is faint, for raw values behind a smoothed line.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    color: str
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """One point of a chart, filled or as a ring."""

    x: float
    y: float
    color: str
    ring: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    name: str,
    marks: Sequence[Mark] = (),
    size: tuple[float, float] = (6.4, 3.4),
    zero: bool = False,
) -> str:
    """Return an `<svg>` element with the lines and marks.

    Args:
        lines: At least one line.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        name: Accessible name, unique on the page.
        marks: Points on top of the lines.
        size: Size in inches of 72 units; the page scales it.
        zero: Whether the y axis starts at 0.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.5, **dict.fromkeys(inked, _INK)}
    with mpl.rc_context(style):
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=line.color,
                linewidth=1.0 if line.faint else 1.5 if line.dashed else 2.2,
                linestyle=(0, (4, 3)) if line.dashed else "solid",
                alpha=0.28 if line.faint else 1.0,
                solid_capstyle="round",
                solid_joinstyle="round",
            )
        for mark in marks:
            face = "none" if mark.ring else mark.color
            axes.plot(mark.x, mark.y, "o", color=mark.color, ms=8, mfc=face, mew=2, zorder=5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _style_axes(axes, zero)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata={"Date": None}
        )
    return _inline(buffer.getvalue(), name)


def _style_axes(axes: Axes, zero: bool) -> None:
    """Draw only a light grid and the bottom axis, with few ticks."""
    axes.margins(x=0.02, y=0.08)
    if zero:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_alpha(0.35)
    axes.tick_params(length=0, pad=6)
    axes.locator_params(axis="x", nbins=7)
    axes.locator_params(axis="y", nbins=5)


def smooth(values: npt.NDArray[np.float64], span: int) -> npt.NDArray[np.float64]:
    """Return the exponential moving average over about `span` values, with bias correction."""
    decay = 1.0 - 2.0 / (max(span, 1) + 1)
    total = weight = 0.0
    out = np.empty(len(values))
    for index, value in enumerate(values):
        if np.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1.0
        out[index] = total / weight if weight else np.nan
    return out


def _inline(text: str, name: str) -> str:
    """Return the SVG file of matplotlib as an element of a page."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    svg = re.sub(r"(font: [^;'\"]*px )'[^;\"]*", r"\1inherit", svg)
    # The page styles all charts, and ids must be unique on it: keep only those that are referred to.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in referred else "", svg)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    label = name.replace("&", "and").replace("<", "").replace('"', "")
    return f'<svg {view.group(0) if view else ""} role="img" aria-label="{label}">{rest}'
