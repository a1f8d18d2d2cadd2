"""Comparison of models and pseudo masks on the same frames: with drawn masks or, without these, with each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deal_core.dataset.dataset import Dataset, evenly_spread, with_masks
from deal_core.errors import UsageError
from deal_core.evaluation.agreement import AgreementEvaluator
from deal_core.evaluation.decisions import Advance
from deal_core.evaluation.evaluate import (
    add_up,
    evaluate_masks,
    evaluate_model,
    predicted_frames,
    predictions_in_folder,
)
from deal_core.evaluation.picture_folder import PredictedFrame, draw_frames, read_pictures, worst_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.masks.mask_folder import CAMS_FILE, check_masks
from deal_core.masks.score_dataset import CamSettings, check_use, decision_threshold
from deal_core.models.model_file import MODEL_FILE, LoadedModel, load_model
from deal_core.quality.mask_figures import MEASURED_FRAMES, MaskMeter
from deal_core.quality.training_facts import facts_of_training
from deal_core.quality.verdict import Verdict, judge
from deal_core.report.page import HISTORY_FILE, Run, read_history
from deal_core.structures import Float64Array


@dataclass(frozen=True, eq=False)
class Candidate:
    """A source of a mask for every frame.

    Args:
        name: Name for the report.
        folder: Run folder, or folder of pseudo masks.
        model: Model; None for a folder of pseudo masks.
    """

    name: str
    folder: Path
    model: LoadedModel | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The content of a report.

    Args:
        runs: One run per candidate, in order.
        pairs: (R, R) mIoU of each pair of candidates; None after a comparison with drawn masks.
    """

    runs: tuple[Run, ...]
    pairs: Float64Array | None = None


def open_candidate(path: Path, name: str = "") -> Candidate:
    """Open a model file, a run folder with a model file, or a folder of pseudo masks by `deal cams`.

    Args:
        path: Path of the file or folder.
        name: Name for the report; default: the name of the folder.

    Raises:
        UsageError: the path is none of these.
        ModelFileError: the model cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    name = name or folder.resolve().name
    if (path / CAMS_FILE).is_file():
        return Candidate(name, path)
    if path.is_file():
        return Candidate(name, folder, load_model(path))
    if (path / MODEL_FILE).is_file():
        return Candidate(name, folder, load_model(path / MODEL_FILE))
    raise UsageError(
        f"{path}: expected a model file, a run folder with {MODEL_FILE}, or a folder of pseudo masks with "
        f"{CAMS_FILE}, found {'a folder without either' if path.is_dir() else 'nothing'}"
    )


def check_candidate(candidate: Candidate, dataset: Dataset, settings: CamSettings) -> None:
    """Check that a candidate can provide the masks of these frames.

    Raises:
        ModelFileError: the model is for other classes.
        DatasetError: the pseudo masks are for other classes, or lack frames.
        UsageError: `deal_core.masks.score_dataset.check_use` raises it.
    """
    if candidate.model:
        check_use(candidate.model.info, dataset, settings)
    else:
        check_masks(candidate.folder, dataset)


def predict_frames(candidate: Candidate, dataset: Dataset, settings: CamSettings) -> Iterable[PredictedFrame]:
    """Yield every frame with the mask of the candidate, in order and in constant memory.

    Raises:
        DealError: `check_candidate` or `score_frames` raises it, or a mask is damaged.
    """
    if candidate.model:
        threshold = decision_threshold(candidate.model, settings).value
        return predicted_frames(candidate.model, dataset, settings, threshold)
    return predictions_in_folder(candidate.folder, dataset).frames(dataset)


def judge_candidate(candidate: Candidate, dataset: Dataset, settings: CamSettings) -> Verdict:
    """Return the verdict on the masks of a candidate, without drawn masks.

    Raises:
        DealError: `predict_frames` raises it.
    """
    few = evenly_spread(dataset, MEASURED_FRAMES)
    meter = MaskMeter(dataset.classes, dataset.depth_kind)
    for record, frame in zip(few.frames, predict_frames(candidate, few, settings), strict=True):
        meter.update(frame.sample, frame.mask, (record.recording, record.segment))
    model = candidate.model
    return judge(meter.figures(), facts_of_training(model.info, candidate.folder) if model else None)


def compare(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    work: Path,
    settings: CamSettings | None = None,
    *,
    num_pictures: int = 12,
    advance: Advance = lambda steps: None,
) -> Comparison:
    """Compare candidates on the frames with drawn masks or, without any, with each other on all frames.

    Args:
        candidates: At least one candidate; at least two if no frame has a drawn mask.
        dataset: Frames.
        work: Folder for the pictures, which must exist until the report is written.
        settings: Settings of the scores of models.
        num_pictures: Number of frames to draw, worst first.
        advance: Function to call with the number of completed steps, up to `num_steps`.

    Raises:
        UsageError: there is no candidate, only one without drawn masks, or `check_candidate` raises it.
        DatasetError: `check_candidate` raises it, or a file is missing or damaged.
        ModelFileError: `check_candidate` raises it.
    """
    settings = settings or CamSettings()
    if not candidates:
        raise UsageError("expected at least one model or folder of masks to compare, found none")
    is_drawn = _num_drawn(dataset) > 0
    dataset = with_masks(dataset) if is_drawn else dataset
    for candidate in candidates:
        check_candidate(candidate, dataset, settings)
    pairs = None
    if is_drawn:
        results = _evaluate(candidates, dataset, settings, advance)
    else:
        results, pairs = _agree(candidates, dataset, settings, advance)
    shown = worst_frames([result.per_frame for result in results], num_pictures)
    few = dataset.subset(predicate=lambda frame: frame.key in shown)
    runs = []
    for index, (candidate, result) in enumerate(zip(candidates, results, strict=True)):
        frames = predict_frames(candidate, few, settings)
        draw_frames(work / str(index), few.classes, frames, result.per_frame)
        history = read_history(candidate.folder / HISTORY_FILE) if candidate.model else None
        verdict = judge_candidate(candidate, dataset, settings)
        runs.append(Run(candidate.folder, result, history, read_pictures(work / str(index)), verdict))
    return Comparison(tuple(runs), pairs)


def num_steps(candidates: Sequence[Candidate], dataset: Dataset) -> int:
    """Return the number of steps of `compare`."""
    drawn = _num_drawn(dataset)
    return sum(_passes(candidate) for candidate in candidates) * drawn if drawn else len(dataset)


def _num_drawn(dataset: Dataset) -> int:
    return sum(frame.mask is not None for frame in dataset.frames)


def _passes(candidate: Candidate) -> int:
    """Return the number of passes of `_evaluate` over the frames."""
    return 2 if candidate.model else 1


def _evaluate(
    candidates: Sequence[Candidate], dataset: Dataset, settings: CamSettings, advance: Advance
) -> list[EvaluationResult]:
    results: list[EvaluationResult] = []
    before = 0

    def report(done: int) -> None:
        advance(before + done)

    for candidate in candidates:
        if candidate.model:
            result = evaluate_model(candidate.model, dataset, settings, name=candidate.name, advance=report)
        else:
            result = evaluate_masks(candidate.folder, dataset, name=candidate.name, advance=report)
        results.append(result)
        before += _passes(candidate) * len(dataset)
    return results


def _agree(
    candidates: Sequence[Candidate], dataset: Dataset, settings: CamSettings, advance: Advance
) -> tuple[list[EvaluationResult], Float64Array]:
    """Compare the candidates with each other, frame by frame, so that no mask is kept."""
    if len(candidates) < 2:
        raise UsageError(
            f"{dataset.path}: no frame has a drawn mask, so {candidates[0].folder} has nothing to be compared with: "
            "name two or more models or folders of masks"
        )

    def count(frames: tuple[PredictedFrame, ...]) -> tuple[AgreementEvaluator]:
        counts = AgreementEvaluator(len(candidates), len(dataset.classes))
        counts.update([frame.mask for frame in frames], frames[0].sample.key)
        return (counts,)

    every = zip(*(predict_frames(candidate, dataset, settings) for candidate in candidates), strict=True)
    total = AgreementEvaluator(len(candidates), len(dataset.classes))
    (agreement,) = add_up((total,), map(count, every), advance)
    results = [
        EvaluationResult(
            candidate.name,
            str(dataset.path),
            dataset.classes,
            len(dataset),
            auto=agreement.score(index, dataset.classes),
            per_frame=tuple(agreement.frames[index]),
            details={"model": candidate.model.sha256[:12]} if candidate.model else {"masks": str(candidate.folder)},
        )
        for index, candidate in enumerate(candidates)
    ]
    return results, agreement.pairs()
