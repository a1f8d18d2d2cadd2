"""One HTML page about any number of runs: figures, curves and pictures, readable anywhere and without a network.

A run is a folder with evaluation.json (`deal evaluate`), and, where they exist, history.jsonl (`deal train`, one
JSON object of numbers a logged step) and pictures/ (`deal_core.evaluation.picture_folder.PictureWriter`).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from deal_core.errors import EvaluationError
from deal_core.evaluation.agreement import AGREEMENT
from deal_core.evaluation.metrics import FrameScore, MaskScore
from deal_core.evaluation.picture_folder import Picture, read_pictures, worst_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.seeds import SeedSummary, summarise_seeds
from deal_core.files import replacing
from deal_core.report.charts import SERIES_COLORS, Line, Mark, line_chart, smooth
from deal_core.structures import Float64Array

HISTORY_FILE = "history.jsonl"
TEMPLATE = Path(__file__).with_name("page.html")

_PICTURE_WIDTH = 384
_MAX_POINTS = 600
_AXES = ("step", "epoch")
# A loss and the value that gives it a meaning belong in one chart.
_COMPARED_WITH = {"loss_deal": "deal_flat"}


@dataclass(frozen=True, eq=False)
class History:
    """What training logged.

    Args:
        series: name to (steps, values), both (N,); a series may miss steps that others have.
    """

    series: Mapping[str, tuple[Float64Array, Float64Array]]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything a report shows of one run; `history` is None and `pictures` empty where the run has none."""

    folder: Path
    evaluation: EvaluationResult
    history: History | None = None
    pictures: tuple[Picture, ...] = ()

    @property
    def headline(self) -> MaskScore | None:
        """The score to judge by: the one that needs no masks, else the oracle's."""
        return self.evaluation.auto or self.evaluation.oracle


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        EvaluationError: the folder is no evaluated run, or one of its files cannot be read.
    """
    evaluation = EvaluationResult.read(folder)
    return Run(folder, evaluation, read_history(folder / HISTORY_FILE), read_pictures(folder))


def read_history(path: Path) -> History | None:
    """Read a training log; return None if the file is missing or empty.

    A last line without its end is left out: the training was interrupted while it wrote. Where a resumed
    training logged a step again, the later value stands.

    Raises:
        EvaluationError: another line is no JSON object, or has no step.
    """
    if not path.is_file():
        return None
    text = path.read_text("utf-8")
    whole, _, _ = text.rpartition("\n")
    series: dict[str, dict[float, float]] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
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
) -> Path:
    """Write the page about the runs; the first is the one the others are compared with.

    Args:
        runs: at least one; all scored against the truth, or all against each other.
        path: the HTML file to write, under a temporary name first.
        title: of the page; made from the datasets when left out.
        num_pictures: how many frames to show, of those that any run has pictures of; all when left out.
        pairs: (R, R) mIoU of each run's masks against each other's, where there is no truth.

    Raises:
        EvaluationError: no run, one of its files cannot be read, or the page cannot be written.
    """
    if not runs:
        raise EvaluationError("a report needs at least one run")
    page = render_report(runs, title=title, num_pictures=num_pictures, pairs=pairs)
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, "utf-8")
    except OSError as error:
        raise EvaluationError(f"{path}: the report cannot be written there ({error.strerror})") from error
    return path


def render_report(
    runs: Sequence[Run],
    *,
    title: str = "",
    num_pictures: int | None = None,
    pairs: Float64Array | None = None,
) -> str:
    """Return the page as text; arguments as `write_report`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["points"] = _points
    environment.filters["delta"] = _delta
    views = _views(runs)
    datasets = list(dict.fromkeys(run.evaluation.dataset for run in runs))
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        title=title or f"Segmentation on {', '.join(Path(dataset).name or dataset for dataset in datasets)}",
        datasets=datasets,
        runs=views,
        base=views[0],
        seeds=_seed_rows(views),
        classes=_class_rows(views),
        threshold_chart=_threshold_chart(views),
        frame_chart=_frame_chart(views),
        history=_history_charts(views),
        frames=_frame_cards(views, num_pictures),
        pairs=pairs,
        has_truth=not any(view.headline and view.headline.rule == AGREEMENT for view in views),
        legend=_legend(views),
    )


# What the template sees: plain attributes, formatted there.


@dataclass(frozen=True, eq=False)
class _View:
    label: str
    color: str
    run: Run
    headline: MaskScore | None

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
        """Each run's figure as JSON, for the page to sort by; null where there is none."""
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
    """Give every run a colour and a label of its own."""
    names = [run.evaluation.name for run in runs]
    labels = []
    for run, name in zip(runs, names, strict=True):
        seed = run.evaluation.details.get("seed")
        label = name if names.count(name) == 1 or seed is None else f"{name} · seed {seed}"
        labels.append(label)
    return [
        _View(
            label if labels.count(label) == 1 else f"{label} ({run.folder.name})",
            SERIES_COLORS[index % len(SERIES_COLORS)],
            run,
            run.headline,
        )
        for index, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]


def _seed_rows(views: Sequence[_View]) -> list[_SeedRow]:
    """Return mean and spread of the runs that differ only in their seed, on the same dataset."""
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


def _class_rows(views: Sequence[_View]) -> list[_ClassRow]:
    """Return one row a class name, over all runs; a run that does not know the class has an empty cell."""
    colors: dict[str, str] = {"background": "#6b7280"}
    for view in views:
        for name, rgb in zip(view.evaluation.classes.names, view.evaluation.classes.colors, strict=True):
            colors.setdefault(name, _hex(rgb))
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
            chosen = np.unique(np.linspace(0, len(ious) - 1, _MAX_POINTS).round().astype(int))
            lines.append(Line(100 * chosen / (len(ious) - 1), 100 * ious[chosen], view.color))
    if not lines:
        return ""
    return line_chart(
        lines, x_label="share of images, worst first (%)", y_label="mIoU of the image", name="mIoU by image", zero=True
    )


def _history_charts(views: Sequence[_View]) -> list[_Chart]:
    """Return one chart a logged number: losses first, then what was held out, then the rest."""
    logged = dict.fromkeys(n for view in views if view.run.history for n in view.run.history.series)
    names = sorted(logged, key=_chart_order)
    references = {reference for name, reference in _COMPARED_WITH.items() if name in names}
    charts = []
    for name in names:
        if name in references:
            continue
        lines = []
        for view in views:
            series = view.run.history.series if view.run.history else {}
            if name in series:
                noisy = "loss" in name and len(series[name][0]) >= 40
                lines += (_raw_and_smooth if noisy else _plain)(*series[name], view.color)
            if _COMPARED_WITH.get(name) in series:
                steps, values = series[_COMPARED_WITH[name]]
                lines.append(Line(*_thin(steps, smooth(values, len(values) // 20)), view.color, dashed=True))
        reference = _COMPARED_WITH.get(name)
        note = f"dashed: {reference}, the loss of a flat CAM" if reference in references else ""
        svg = line_chart(lines, x_label="step", y_label="", name=f"{name} by step", size=(4.6, 2.7))
        charts.append(_Chart(name, svg, note))
    return charts


def _chart_order(name: str) -> int:
    return 0 if name == "loss" else 1 if name.startswith("loss") else 2 if name.startswith("held_out") else 3


def _plain(steps: Float64Array, values: Float64Array, color: str) -> list[Line]:
    return [Line(*_thin(steps, values), color)]


def _raw_and_smooth(steps: Float64Array, values: Float64Array, color: str) -> list[Line]:
    return [
        Line(*_thin(steps, values), color, faint=True),
        Line(*_thin(steps, smooth(values, len(values) // 20)), color),
    ]


def _thin(steps: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return at most `_MAX_POINTS` of the points, so that a long training makes no huge page."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, _MAX_POINTS).round().astype(int))
    return steps[chosen], values[chosen]


def _frame_cards(views: Sequence[_View], count: int | None) -> list[_FrameCard]:
    """Return the frames that any run drew, worst on the average first, all runs beside each other."""
    drawn = [{picture.key: picture for picture in view.run.pictures} for view in views]
    scores = [
        {**{key: picture.iou for key, picture in of_run.items()}, **_known_scores(view)}
        for view, of_run in zip(views, drawn, strict=True)
    ]
    keys = {key for of_run in drawn for key in of_run}
    of_keys = [[FrameScore(key, iou) for key, iou in of_run.items() if key in keys] for of_run in scores]
    chosen = worst_frames(of_keys, len(keys) if count is None else count)
    cards = [
        _frame_card(
            key,
            [of_run.get(key) for of_run in drawn],
            [_FrameRun(view, of_run.get(key, math.nan), ()) for view, of_run in zip(views, scores, strict=True)],
        )
        for key in chosen
    ]
    return sorted(cards, key=_average)


def _known_scores(view: _View) -> dict[str, float]:
    return {frame.key: frame.iou for frame in view.evaluation.per_frame}


def _average(card: _FrameCard) -> tuple[bool, float]:
    """Return what frames are sorted by; those without a figure come last."""
    known = [run.iou for run in card.runs if math.isfinite(run.iou)]
    return (not known, sum(known) / max(len(known), 1))


def _frame_card(key: str, drawn: Sequence[Picture | None], runs: Sequence[_FrameRun]) -> _FrameCard:
    shared: dict[str, Path] = {}
    for picture in drawn:
        for part in ("image", "depth", "edges", "truth"):
            if picture and part in picture.files:
                shared.setdefault(part, picture.files[part])
    return _FrameCard(
        key,
        tuple(_shown(part, path) for part, path in shared.items()),
        tuple(
            replace(run, pictures=_run_pictures(picture) if picture else ())
            for run, picture in zip(runs, drawn, strict=True)
        ),
    )


def _run_pictures(picture: Picture) -> tuple[_Shown, ...]:
    return tuple(_shown(part, picture.files[part]) for part in ("cam", "prediction") if part in picture.files)


def _shown(part: str, path: Path) -> _Shown:
    return _Shown(_PART_TITLES[part], _data_uri(path))


def _data_uri(path: Path) -> str:
    """Return a PNG as a WebP data address, no wider than a page shows it."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise EvaluationError(f"{path}: expected a PNG picture. Write it again with `deal evaluate`")
    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH:
        size = (_PICTURE_WIDTH, max(round(height * _PICTURE_WIDTH / width), 1))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 84])
    if not done:
        raise EvaluationError(f"{path}: the picture cannot be encoded")
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _legend(views: Sequence[_View]) -> list[tuple[str, str]]:
    colors: dict[str, str] = {}
    for view in views:
        for name, color in zip(view.evaluation.classes.names, view.evaluation.classes.colors, strict=True):
            colors.setdefault(name, _hex(color))
    return list(colors.items())


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _points(value: float | None) -> str:
    """Format a share as points; a dash where it is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _delta(value: float) -> str:
    """Format a difference of shares as signed points."""
    if not math.isfinite(value):
        return ""
    rounded = round(100 * value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded):.1f}"
