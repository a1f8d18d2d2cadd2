"""The table as a figure: bars per network and variant, the spread over seeds, and the results of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deal_core.errors import EvaluationError
from deal_core.experiments.table import Row
from deal_core.files import os_errors_as, replacing
from deal_core.report.charts import SERIES_COLORS

FIGURE_FILE = "figure.png"
_PARTS = {"train": "training images", "full_train": "all training images", "val": "validation images"}
_GROUP_WIDTH = 0.84
_BASELINE_COLOR = "#9aa3ad"


def draw_figure(rows: Sequence[Row], title: str, path: Path) -> Path:
    """Write a PNG with a panel per part: mIoU as bars, networks side by side, variants in colours.

    Bars are means over seeds at the oracle threshold. With several seeds, a whisker shows the standard deviation and a
    dot each seed. A dashed line is the automatic threshold, and a diamond the result of the paper. At least one row.
    """
    from matplotlib.figure import Figure

    parts = [part for part in _PARTS if any(row.part == part for row in rows)]
    models = list(dict.fromkeys(row.model for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    size = (max(7.0, 1.2 + 1.1 * len(models) * len(variants)), 1.0 + 3.8 * len(parts))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(len(parts), 1, sharey=True, squeeze=False)[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _draw_panel(axes, [row for row in rows if row.part == part], models, variants)
        axes.set_title(_PARTS[part], fontsize=11)
        axes.set_ylabel("mIoU of the CAMs, %")
    panels[0].set_ylim(0, 100 * min(max(map(_top, rows)) * 1.12, 1.05))
    figure.suptitle(title, fontsize=13)
    handles = _legend(variants, rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False, fontsize=9)
    with os_errors_as(EvaluationError, f"{path} cannot be written"), replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _draw_panel(axes: Any, rows: Sequence[Row], models: Sequence[str], variants: Sequence[str]) -> None:
    bar = _GROUP_WIDTH / len(variants)
    for row in rows:
        x = models.index(row.model) + bar * (variants.index(row.variant) - (len(variants) - 1) / 2)
        oracle, auto = row.summary("oracle"), row.summary("auto")
        mean, spread = 100 * oracle.mean, 0.0 if len(oracle.values) == 1 else 100 * oracle.std
        axes.bar(x, mean, 0.9 * bar, color=_color(row.variant, variants))
        if spread:
            axes.errorbar(x, mean, spread, color="#222222", capsize=4, linewidth=1.3)
            axes.plot([x] * len(oracle.values), [100 * v for v in oracle.values], ".", color="#222222", markersize=4)
        axes.hlines(100 * auto.mean, x - 0.4 * bar, x + 0.4 * bar, color="white", linewidth=2.2)
        axes.hlines(100 * auto.mean, x - 0.4 * bar, x + 0.4 * bar, color="#222222", linewidth=1.0, linestyle="dashed")
        top = mean + spread
        if row.published is not None:
            beside = x + 0.28 * bar  # beside the whisker
            axes.plot(beside, 100 * row.published, "D", color="white", mec="#222222", markersize=6, zorder=5)
            top = max(top, 100 * row.published + 1)
        axes.annotate(f"{mean:.1f}", (x, top), xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(range(len(models)), models)
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(variants: Sequence[str], rows: Sequence[Row]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_color(variant, variants), label=variant) for variant in variants]
    handles.append(Line2D([], [], color="#222222", linewidth=1.0, linestyle="dashed", label="automatic threshold"))
    if any(len(row.seeds) > 1 for row in rows):
        spread = "standard deviation, each seed"
        handles.append(Line2D([], [], color="#222222", marker=".", linewidth=1.3, label=spread))
    if any(row.published is not None for row in rows):
        paper = Line2D([], [], color="white", marker="D", markeredgecolor="#222222", linestyle="none", label="paper")
        handles.append(paper)
    return handles


def _color(variant: str, variants: Sequence[str]) -> str:
    """Return grey for the baseline, and a colour by position for the other variants."""
    others = [name for name in variants if name != "baseline"]
    return SERIES_COLORS[others.index(variant) % len(SERIES_COLORS)] if variant in others else _BASELINE_COLOR


def _top(row: Row) -> float:
    return max(*row.summary("oracle").values, row.summary("auto").mean, row.published or 0.0)
