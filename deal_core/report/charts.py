"""Line charts as SVG text that sits in a page: transparent, in the page's font, black or white as the page is."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SERIES_COLORS = ("#2f80d8", "#e8762b", "#1fa37a", "#c74f9e", "#8b6be0", "#b08d12", "#2aa5b8", "#d9534f")
"""Colours of runs, apart for colour-blind eyes too, readable on white and on near-black."""

_INK = "#010203"  # Stands for the page's text colour until the SVG is written.


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart.

    Args:
        x: (N,) ascending.
        y: (N,), nan where undefined.
        color: `#rrggbb`.
        dashed: for a line that is only there to compare with.
        faint: for raw values behind a smoothed line.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    color: str
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """One point of a chart, with a few words beside it. Filled or as a ring."""

    x: float
    y: float
    color: str
    text: str = ""
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
        lines: at least one.
        x_label: what the x axis counts.
        y_label: what the y axis measures.
        name: for those who cannot see it; different for every chart of a page.
        marks: points on top.
        size: in inches at 72 a inch; the page scales it.
        zero: whether the y axis starts at 0.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 10.5,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
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
            axes.plot(
                [mark.x],
                [mark.y],
                marker="o",
                markersize=8,
                color=mark.color,
                markerfacecolor="none" if mark.ring else mark.color,
                markeredgewidth=2,
                linestyle="none",
                zorder=5,
            )
            if mark.text:
                axes.annotate(
                    mark.text, (mark.x, mark.y), xytext=(0, 10), textcoords="offset points", ha="center", fontsize=9.5
                )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.02, y=0.08)
        if zero:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_alpha(0.35)
        axes.tick_params(length=0, pad=6)
        axes.locator_params(axis="x", nbins=7)
        axes.locator_params(axis="y", nbins=5)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata={"Date": None}
        )
    return _inline(buffer.getvalue(), name)


def smooth(values: npt.NDArray[np.float64], span: int) -> npt.NDArray[np.float64]:
    """Return the exponential moving average over about `span` values, without the bias of its start."""
    decay = 1.0 - 2.0 / (max(span, 1) + 1)
    total = weight = 0.0
    out = np.empty(len(values))
    for index, value in enumerate(values):
        if np.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1.0
        out[index] = total / weight if weight else np.nan
    return out


def _inline(text: str, name: str) -> str:
    """Turn matplotlib's SVG file into an element of a page."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    svg = re.sub(r"(font: [^;'\"]*px )'[^;\"]*", r"\1inherit", svg)
    # A page's own style says this for every chart; and only what is referred to may keep an id.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in referred else "", svg)
    head, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    label = name.replace("&", "and").replace("<", "").replace('"', "")
    return f'<svg {view.group(0) if view else ""} role="img" aria-label="{label}">{rest}'
