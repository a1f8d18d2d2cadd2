"""The table of results: rows per network, variant and part, with mean and spread over seeds, and published results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal_core.errors import DealError, EvaluationError
from deal_core.evaluation.metrics import MaskScore
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.seeds import SeedSummary, summarise_seeds
from deal_core.experiments.definitions import BASELINE
from deal_core.experiments.plan import Plan
from deal_core.experiments.published import published_figures
from deal_core.experiments.run import evaluated_folders, is_evaluated
from deal_core.files import os_errors_as, replacing

TABLE_FILE, RESULTS_FILE = "table.md", "results.json"
COLUMNS = (
    "network",
    "variant",
    "on",
    "seeds",
    "oracle",
    "paper",
    "gain",
    "paper's gain",
    "auto",
    "F oracle",
    "F auto",
    "threshold oracle",
    "threshold auto",
)
SHORT_COLUMNS = ("network", "variant", "on", "oracle", "paper", "gain", "auto", "F auto")
"""Columns that fit a terminal."""


@dataclass(frozen=True)
class Figures:
    """The figures of one evaluation, all in [0, 1]."""

    oracle: float
    auto: float
    boundary_oracle: float
    boundary_auto: float
    threshold_oracle: float
    threshold_auto: float

    @classmethod
    def of(cls, result: EvaluationResult) -> Figures:
        """Return the figures of an evaluation of CAMs; nan for auto where its rule found no threshold."""
        auto, oracle = result.auto, result.oracle
        assert oracle is not None
        if auto is None:
            return cls(oracle.miou, math.nan, oracle.boundary_f, math.nan, _threshold(oracle), math.nan)
        return cls(oracle.miou, auto.miou, oracle.boundary_f, auto.boundary_f, _threshold(oracle), _threshold(auto))


@dataclass(frozen=True)
class Row:
    """The results of one network, variant and part.

    Args:
        model: Name of the preset.
        variant: Name of the variant.
        part: train, full_train or val.
        seeds: Seeds with a result.
        figures: Figures of each seed, in the same order.
        gains: Oracle mIoU minus the oracle mIoU of the baseline, for each seed with both.
        published: mIoU of the paper, in [0, 1]; None if the paper has none.
        published_gain: Gain of the paper over its baseline.
    """

    model: str
    variant: str
    part: str
    seeds: tuple[int, ...]
    figures: tuple[Figures, ...]
    gains: tuple[float, ...] = ()
    published: float | None = None
    published_gain: float | None = None

    def summary(self, figure: str) -> SeedSummary:
        """Return mean and spread over the seeds of the named one of the `Figures`."""
        return summarise_seeds(getattr(each, figure) for each in self.figures)

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the row, one per column of `COLUMNS`; figures in %, gains in points."""
        is_baseline = self.variant == BASELINE.name
        means = (self.summary("threshold_oracle").mean, self.summary("threshold_auto").mean)
        thresholds = ["–" if math.isnan(mean) else f"{mean:.2f}" for mean in means]
        return (
            self.model,
            self.variant,
            self.part.replace("_", " "),
            str(len(self.seeds)),
            self.summary("oracle").percent(),
            "" if self.published is None else f"{100 * self.published:.1f}",
            "" if is_baseline or not self.gains else _signed(summarise_seeds(self.gains)),
            "" if is_baseline or self.published_gain is None else f"{100 * self.published_gain:+.1f}",
            self.summary("auto").percent(),
            self.summary("boundary_oracle").percent(),
            self.summary("boundary_auto").percent(),
            *thresholds,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON; undefined values are null."""
        summaries = {name: _summary_json(self.summary(name)) for name in Figures.__dataclass_fields__}
        return {
            "model": self.model,
            "variant": self.variant,
            "part": self.part,
            "seeds": list(self.seeds),
            **summaries,
            "gain": _summary_json(summarise_seeds(self.gains)) if self.gains else None,
            "published": self.published,
            "published_gain": self.published_gain,
        }


def collect_rows(plan: Plan) -> list[Row]:
    """Return the rows from all up-to-date evaluations of the plan, and from others that are in its folder.

    So a call for one network keeps the rows of an earlier call for another. Rows without any evaluation are left out.
    """
    found: dict[tuple[str, str, str], dict[int, Figures]] = {}
    planned = set()
    for run in plan.runs:
        for evaluation in run.evaluations:
            folder = run.folder / evaluation.part
            planned.add(folder.resolve())
            results = found.setdefault((run.model, run.variant.name, evaluation.part), {})
            if is_evaluated(run, evaluation):
                results[run.settings.seed] = Figures.of(EvaluationResult.read(folder))
    for folder in evaluated_folders(plan.out):
        if folder.resolve() not in planned and (result := _read_scores(folder)) is not None:
            model, variant, seed, part = folder.relative_to(plan.out).parts
            found.setdefault((model, variant, part), {})[int(seed.removeprefix("seed-"))] = Figures.of(result)
    return list(_rows(plan.benchmark.name, found))


def rows_as_markdown(rows: Sequence[Row], title: str) -> str:
    """Return the rows as a Markdown table with an explanation of its figures."""
    lines = [
        f"# {title}",
        "",
        "CAMs of tagged classes; figures in %, mean ± standard deviation over the seeds. Oracle: mIoU at the threshold "
        "swept on the evaluated masks, as in papers. Auto: mIoU at the threshold chosen on the training images without "
        "masks. F: boundary F at these thresholds. Gain: points of oracle over the baseline with the same seed. "
        "Paper: arXiv 2509.17702.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * 3 + "---:|" * (len(COLUMNS) - 3),
    ]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def write_table(rows: Sequence[Row], title: str, benchmark: str, folder: Path) -> Path:
    """Write table.md and results.json into the folder, and return the path of the table."""
    content = {"benchmark": benchmark, "rows": [row.to_json() for row in rows]}
    for name, text in (
        (RESULTS_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n"),
        (TABLE_FILE, rows_as_markdown(rows, title)),
    ):
        with os_errors_as(EvaluationError, f"{folder / name} cannot be written"), replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / TABLE_FILE


def _read_scores(folder: Path) -> EvaluationResult | None:
    """Return the evaluation in a folder; None if it cannot be read or has no swept threshold."""
    try:
        result = EvaluationResult.read(folder)
    except DealError:
        return None
    return result if result.oracle is not None else None


def _rows(benchmark: str, found: Mapping[tuple[str, str, str], Mapping[int, Figures]]) -> Iterator[Row]:
    for (model, variant, part), results in found.items():
        if not results:
            continue
        baseline = found.get((model, BASELINE.name, part), {})
        gains = [figures.oracle - baseline[seed].oracle for seed, figures in results.items() if seed in baseline]
        published, reference = (_published(benchmark, model, name, part) for name in (variant, BASELINE.name))
        yield Row(
            model=model,
            variant=variant,
            part=part,
            seeds=tuple(results),
            figures=tuple(results.values()),
            gains=tuple(gains),
            published=published,
            published_gain=None if published is None or reference is None else published - reference,
        )


def _published(benchmark: str, model: str, variant: str, part: str) -> float | None:
    percent = published_figures(benchmark, model, variant).get(part)
    return None if percent is None else percent / 100


def _threshold(score: MaskScore) -> float:
    assert score.threshold is not None
    return score.threshold


def _signed(summary: SeedSummary) -> str:
    return f"{'+' if summary.mean >= 0 else ''}{summary.percent()}"


def _summary_json(summary: SeedSummary) -> dict[str, Any]:
    values = [_number(value) for value in summary.values]
    return {"mean": _number(summary.mean), "std": _number(summary.std), "values": values}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
