"""A self-contained HTML page about any number of runs: figures, curves and pictures.

A run is a folder with evaluation.json (`deal evaluate`) and, optionally, history.jsonl (`deal train`, one JSON object
of numbers per logged step) and pictures/ (`deal_core.evaluation.picture_folder.PictureWriter`).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

from deal_core.dataset.image_files import read_color
from deal_core.errors import DatasetError, EvaluationError
from deal_core.evaluation.agreement import AGREEMENT
from deal_core.evaluation.metrics import FrameScore, MaskScore
from deal_core.evaluation.picture_folder import Picture, read_pictures, worst_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.seeds import SeedSummary, summarise_seeds
from deal_core.files import os_errors_as, read_text, replacing
from deal_core.quality.verdict import ClassVerdict, Verdict
from deal_core.report.charts import SERIES_COLORS, Line, Mark, line_chart, smooth
from deal_core.structures import Float64Array, Int64Array
from deal_core.text_formats import parse_json

HISTORY_FILE = "history.jsonl"
TEMPLATE = Path(__file__).with_name("page.html")

_PICTURE_WIDTH = 384
_MAX_POINTS = 600
_AXES = ("step", "epoch")
# Losses that share a chart with the value that they are compared with.
_COMPARED_WITH = {"loss_deal": "deal_flat"}


@dataclass(frozen=True, eq=False)
class History:
    """The training log: steps and values, both (N,), by name; the series may have different steps."""

    series: Mapping[str, tuple[Float64Array, Float64Array]]


@dataclass(frozen=True, eq=False)
class Run:
    """The content of a report about one run; what the run does not have is None or empty.

    `verdict` says without drawn masks whether the run is good enough.
    """

    folder: Path
    evaluation: EvaluationResult
    history: History | None = None
    pictures: tuple[Picture, ...] = ()
    verdict: Verdict | None = None

    @property
    def headline(self) -> MaskScore | None:
        """The main score: at the automatic threshold if there is one, else at the oracle threshold."""
        return self.evaluation.auto or self.evaluation.oracle


def read_run(folder: Path) -> Run:
    """Read a run folder; raise `EvaluationError` if it has no evaluation, or a file cannot be read."""
    evaluation = EvaluationResult.read(folder)
    return Run(folder, evaluation, read_history(folder / HISTORY_FILE), read_pictures(folder), Verdict.read(folder))


def read_history(path: Path) -> History | None:
    """Read a training log; return None if the file is missing or empty.

    An incomplete last line, which an interrupted training leaves, is ignored. If a resumed training logged a step
    again, the later value counts.

    Raises:
        EvaluationError: a line is no JSON object, or has no step.
    """
    if not path.is_file():
        return None
    try:
        whole, _, _ = read_text(path).rpartition("\n")
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read ({error})") from None
    series: dict[str, dict[float, float]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line, finite=False)
            step = float(entry["step"])
        except (KeyError, TypeError, ValueError):
            raise EvaluationError(
                f'{path}, line {number}: expected a JSON object with numbers such as {{"step": 10, "loss": 0.5}}, '
                f"found {line[:80]!r}"
            ) from None
        for name, value in entry.items():
            if name not in _AXES and isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, {})[step] = float(value)
    ordered = {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in series.items()
    }
    return History(ordered) if ordered else None


def write_report(
    runs: Sequence[Run],
    path: Path,
    *,
    title: str = "",
    num_pictures: int | None = None,
    pairs: Float64Array | None = None,
    audit: str = "",
) -> Path:
    """Write the page about the runs; it compares all runs with the first one.

    Args:
        runs: At least one run; all scored against the truth, or all against each other.
        path: Path of the HTML file.
        title: Title of the page; default: made from the datasets.
        num_pictures: Number of frames with pictures to show; default: all.
        pairs: (R, R) mIoU of each pair of runs, for runs without truth.
        audit: Section about the tags, as HTML, by `deal_core.report.audit_page.render_audit`.

    Raises:
        EvaluationError: there is no run, a file cannot be read, or the page cannot be written.
    """
    if not runs:
        raise EvaluationError("expected at least one run for a report, found none")
    page = render_report(runs, title=title, num_pictures=num_pictures, pairs=pairs, audit=audit)
    with os_errors_as(EvaluationError, f"{path}: the report cannot be written there"), replacing(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def render_report(
    runs: Sequence[Run],
    *,
    title: str = "",
    num_pictures: int | None = None,
    pairs: Float64Array | None = None,
    audit: str = "",
) -> str:
    """Return the page as text, with arguments as in `write_report`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["points"] = _points
    environment.filters["delta"] = _delta
    views = _views(runs)
    colors = _class_colors(views)
    datasets = list(dict.fromkeys(run.evaluation.dataset for run in runs))
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        title=title or f"Segmentation on {', '.join(Path(dataset).name or dataset for dataset in datasets)}",
        datasets=datasets,
        runs=views,
        base=views[0],
        seeds=_seed_rows(views),
        classes=_class_rows(views, {"background": "#6b7280", **colors}),
        threshold_chart=_threshold_chart(views),
        frame_chart=_frame_chart(views),
        history=_history_charts(views),
        frames=_frame_cards(views, num_pictures),
        pairs=pairs,
        audit=audit,
        judged=[view for view in views if view.run.verdict],
        verdicts=_verdict_rows(views, colors),
        has_truth=not any(view.headline and view.headline.rule == AGREEMENT for view in views),
        legend=list(colors.items()),
    )


# The data of the template, which formats the values.


@dataclass(frozen=True, eq=False)
class _View:
    label: str
    color: str
    run: Run

    @property
    def headline(self) -> MaskScore | None:
        return self.run.headline

    @property
    def evaluation(self) -> EvaluationResult:
        return self.run.evaluation


@dataclass(frozen=True)
class _SeedRow:
    name: str
    count: int
    auto: SeedSummary | None
    oracle: SeedSummary | None
    boundary: SeedSummary | None


@dataclass(frozen=True)
class _ClassCell:
    iou: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    boundary_f: float = math.nan
    difference: float = math.nan


@dataclass(frozen=True)
class _ClassRow:
    name: str
    color: str
    cells: tuple[_ClassCell, ...]


@dataclass(frozen=True)
class _VerdictRow:
    """A class with the verdicts of the runs that were judged; None for a run without the class."""

    name: str
    color: str
    cells: tuple[ClassVerdict | None, ...]


@dataclass(frozen=True)
class _Chart:
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class _Shown:
    part: str
    source: str


@dataclass(frozen=True, eq=False)
class _FrameRun:
    view: _View
    iou: float
    pictures: tuple[_Shown, ...]


@dataclass(frozen=True)
class _FrameCard:
    key: str
    shared: tuple[_Shown, ...]
    runs: tuple[_FrameRun, ...]

    @property
    def scores(self) -> str:
        """The mIoU of each run as JSON, for sorting in the page; null if undefined."""
        return json.dumps([round(run.iou, 6) if math.isfinite(run.iou) else None for run in self.runs])


_PART_TITLES = {
    "image": "Image",
    "depth": "Depth",
    "edges": "Depth edges",
    "cam": "CAM",
    "prediction": "Prediction",
    "truth": "Truth",
}


def _views(runs: Sequence[Run]) -> list[_View]:
    """Return the runs, each with a unique label and a colour."""
    names = [run.evaluation.name for run in runs]
    seeds = [run.evaluation.details.get("seed") for run in runs]
    labels = [
        name if names.count(name) == 1 or seed is None else f"{name} · seed {seed}"
        for name, seed in zip(names, seeds, strict=True)
    ]
    unique = [
        label if labels.count(label) == 1 else f"{label} ({run.folder.name})"
        for run, label in zip(runs, labels, strict=True)
    ]
    return [_View(*view) for view in zip(unique, cycle(SERIES_COLORS), runs, strict=False)]


def _seed_rows(views: Sequence[_View]) -> list[_SeedRow]:
    """Return mean and spread over runs that differ only in their seed, on the same dataset."""
    groups: dict[tuple[str, str], list[_View]] = {}
    for view in views:
        if "seed" in view.evaluation.details:
            groups.setdefault((view.evaluation.name, view.evaluation.dataset), []).append(view)
    rows = []
    for (name, _), members in groups.items():
        if len({view.evaluation.details["seed"] for view in members}) == len(members) > 1:
            rows.append(
                _SeedRow(
                    name,
                    len(members),
                    _summary([view.evaluation.auto.miou for view in members if view.evaluation.auto]),
                    _summary([view.evaluation.oracle.miou for view in members if view.evaluation.oracle]),
                    _summary([view.headline.boundary_f for view in members if view.headline]),
                )
            )
    return rows


def _summary(values: Sequence[float]) -> SeedSummary | None:
    known = [value for value in values if math.isfinite(value)]
    return summarise_seeds(known) if known else None


def _class_colors(views: Sequence[_View]) -> dict[str, str]:
    """Return the colour of every class, by name."""
    colors: dict[str, str] = {}
    for view in views:
        for name, color in zip(view.evaluation.classes.names, view.evaluation.classes.colors, strict=True):
            colors.setdefault(name, "#{:02x}{:02x}{:02x}".format(*color))
    return colors


def _class_rows(views: Sequence[_View], colors: Mapping[str, str]) -> list[_ClassRow]:
    """Return one row per class name; a run without the class has an empty cell."""
    by_view = [{entry.name: entry for entry in view.headline.classes} if view.headline else {} for view in views]
    rows = []
    for name, color in colors.items():
        first = by_view[0].get(name)
        cells = []
        for index, entries in enumerate(by_view):
            entry = entries.get(name)
            if entry is None:
                cells.append(_ClassCell())
                continue
            difference = entry.iou - first.iou if index and first else math.nan
            cells.append(_ClassCell(entry.iou, entry.precision, entry.recall, entry.boundary_f, difference))
        rows.append(_ClassRow(name, color, tuple(cells)))
    return rows


def _verdict_rows(views: Sequence[_View], colors: Mapping[str, str]) -> list[_VerdictRow]:
    """Return one row per class that was judged in any run."""
    judged = [{one.name: one for one in view.run.verdict.classes} for view in views if view.run.verdict]
    rows = [_VerdictRow(name, color, tuple(of_run.get(name) for of_run in judged)) for name, color in colors.items()]
    return [row for row in rows if any(row.cells)]


def _threshold_chart(views: Sequence[_View]) -> str:
    curves = [(view, view.evaluation.curve) for view in views if view.evaluation.curve is not None]
    if not curves:
        return ""
    marks = []
    for view, curve in curves:
        for score, ring in ((view.evaluation.oracle, True), (view.evaluation.auto, False)):
            if score is not None and score.threshold is not None:
                height = float(np.interp(score.threshold, curve.thresholds, curve.miou))
                marks.append(Mark(score.threshold, 100 * height, view.color, ring=ring))
    return line_chart(
        [Line(curve.thresholds, 100 * curve.miou, view.color) for view, curve in curves],
        marks=marks,
        x_label="background threshold",
        y_label="mIoU",
        name="mIoU by background threshold",
        zero=True,
    )


def _frame_chart(views: Sequence[_View]) -> str:
    lines = []
    for view in views:
        ious = np.sort([frame.iou for frame in view.evaluation.per_frame if math.isfinite(frame.iou)])
        if len(ious) > 1:
            chosen = _spread(len(ious))
            lines.append(Line(100 * chosen / (len(ious) - 1), 100 * ious[chosen], view.color))
    if not lines:
        return ""
    return line_chart(
        lines, x_label="share of images, worst first (%)", y_label="mIoU of the image", name="mIoU by image", zero=True
    )


def _history_charts(views: Sequence[_View]) -> list[_Chart]:
    """Return one chart per logged number: losses first, then held-out figures, then the rest."""
    logged = dict.fromkeys(n for view in views if view.run.history for n in view.run.history.series)
    names = sorted(logged, key=_chart_order)
    references = {reference for name, reference in _COMPARED_WITH.items() if name in names}
    charts = []
    for name in names:
        if name in references:
            continue
        reference = _COMPARED_WITH.get(name, "")
        lines = []
        for view in views:
            series = view.run.history.series if view.run.history else {}
            if name in series:
                noisy = "loss" in name and len(series[name][0]) >= 40
                lines += [Line(*_thin(*series[name]), view.color, faint=noisy)]
                lines += [Line(*_smooth_and_thin(*series[name]), view.color)] if noisy else []
            if reference in series:
                lines.append(Line(*_smooth_and_thin(*series[reference]), view.color, dashed=True))
        note = f"dashed: {reference}, the loss of a flat CAM" if reference in references else ""
        svg = line_chart(lines, x_label="step", y_label="", name=f"{name} by step", size=(4.6, 2.7))
        charts.append(_Chart(name, svg, note))
    return charts


def _chart_order(name: str) -> int:
    return 0 if name == "loss" else 1 if name.startswith("loss") else 2 if name.startswith("held_out") else 3


def _smooth_and_thin(steps: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array]:
    return _thin(steps, smooth(values, len(values) // 20))


def _thin(steps: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return at most `_MAX_POINTS` of the points, which limits the size of the page."""
    chosen = _spread(len(steps))
    return steps[chosen], values[chosen]


def _spread(count: int) -> Int64Array:
    """Return at most `_MAX_POINTS` indices, evenly spread over `count` points."""
    return np.unique(np.linspace(0, count - 1, _MAX_POINTS).round().astype(int))


def _frame_cards(views: Sequence[_View], count: int | None) -> list[_FrameCard]:
    """Return the frames with pictures of any run, worst on average first, with all runs side by side."""
    drawn = [{picture.key: picture for picture in view.run.pictures} for view in views]
    scores = [
        {key: picture.iou for key, picture in of_run.items()} | {f.key: f.iou for f in view.evaluation.per_frame}
        for view, of_run in zip(views, drawn, strict=True)
    ]
    keys = {key for of_run in drawn for key in of_run}
    of_keys = [[FrameScore(key, iou) for key, iou in of_run.items() if key in keys] for of_run in scores]
    chosen = worst_frames(of_keys, len(keys) if count is None else count)
    cards = []
    for key in chosen:
        pictures = [of_run.get(key) for of_run in drawn]
        cards.append(_frame_card(key, views, pictures, [of_run.get(key, math.nan) for of_run in scores]))
    return sorted(cards, key=_average)


def _average(card: _FrameCard) -> tuple[bool, float]:
    """Return the sort key of a frame; frames without any score come last."""
    known = [run.iou for run in card.runs if math.isfinite(run.iou)]
    return (not known, sum(known) / max(len(known), 1))


def _frame_card(
    key: str, views: Sequence[_View], drawn: Sequence[Picture | None], scores: Sequence[float]
) -> _FrameCard:
    files = [picture.files if picture else {} for picture in drawn]
    shared: dict[str, Path] = {}
    for of_run in files:
        for part in ("image", "depth", "edges", "truth"):
            if part in of_run:
                shared.setdefault(part, of_run[part])
    runs = tuple(
        _FrameRun(view, iou, _shown({part: of_run[part] for part in ("cam", "prediction") if part in of_run}))
        for view, iou, of_run in zip(views, scores, files, strict=True)
    )
    return _FrameCard(key, _shown(shared), runs)


def _shown(files: Mapping[str, Path]) -> tuple[_Shown, ...]:
    return tuple(_Shown(_PART_TITLES[part], _data_uri(path)) for part, path in files.items())


def _data_uri(path: Path) -> str:
    """Return a PNG as a data URI of a WebP, at most as wide as the page shows it."""
    try:
        picture = cv2.cvtColor(read_color(path, "picture", "write it again with `deal evaluate`"), cv2.COLOR_RGB2BGR)
    except DatasetError as error:
        raise EvaluationError(str(error)) from None
    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH:
        size = (_PICTURE_WIDTH, max(round(height * _PICTURE_WIDTH / width), 1))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 84])
    if not done:
        raise EvaluationError(f"{path}: the picture cannot be encoded")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _points(value: float | None) -> str:
    """Return a share as text in points; a dash if it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _delta(value: float) -> str:
    """Return a difference of shares as text in signed points."""
    if not math.isfinite(value):
        return ""
    rounded = round(100 * value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded):.1f}"
