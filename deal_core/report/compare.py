"""Models and pseudo masks on the same frames: against drawn masks or, where there are none, against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deal_core.dataset.dataset import Dataset, with_masks
from deal_core.errors import UsageError
from deal_core.evaluation.agreement import AgreementEvaluator
from deal_core.evaluation.evaluate import (
    Advance,
    PredictedFrame,
    add_up,
    draw_frames,
    evaluate_masks,
    evaluate_model,
    predicted_frames,
    predictions_in_folder,
)
from deal_core.evaluation.picture_folder import read_pictures, worst_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.masks.mask_folder import CAMS_FILE, check_masks
from deal_core.masks.score_dataset import CamSettings, check_use, decision_threshold
from deal_core.models.model_file import MODEL_FILE, LoadedModel, load_model
from deal_core.report.page import HISTORY_FILE, Run, read_history
from deal_core.structures import Float64Array


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something that has a mask for every frame.

    Args:
        name: for readers.
        folder: of the run, or of the pseudo masks.
        model: None where the folder holds pseudo masks.
    """

    name: str
    folder: Path
    model: LoadedModel | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a report shows.

    Args:
        runs: a candidate each, in order.
        pairs: (R, R) mIoU of each with each; None where they were compared with drawn masks.
    """

    runs: tuple[Run, ...]
    pairs: Float64Array | None = None


def open_candidate(path: Path, name: str = "") -> Candidate:
    """Open a model file, a run's folder with one in it, or a folder of pseudo masks by `deal cams`.

    Args:
        path: of the file or folder.
        name: for readers; the folder's when left out.

    Raises:
        UsageError: it is none of these.
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
        f"{path}: expected a model file, a run's folder with {MODEL_FILE}, or a folder of pseudo masks with "
        f"{CAMS_FILE}, found {'a folder without either' if path.is_dir() else 'nothing'}"
    )


def check_candidate(candidate: Candidate, dataset: Dataset, settings: CamSettings) -> None:
    """Refuse, before any work, what has no masks for these frames.

    Raises:
        ModelFileError: the model is for other classes.
        DatasetError: the pseudo masks are for other classes, or lack frames.
        UsageError: as `deal_core.masks.score_dataset.check_use`.
    """
    if candidate.model:
        check_use(candidate.model.info, dataset, settings)
    else:
        check_masks(candidate.folder, dataset)


def predict_frames(candidate: Candidate, dataset: Dataset, settings: CamSettings) -> Iterable[PredictedFrame]:
    """Yield every frame with the candidate's mask, in order and in constant memory.

    Raises:
        ModelFileError: as `score_frames`.
        DatasetError: a file of the dataset or a mask is missing or damaged.
        UsageError: as `score_frames`.
    """
    if candidate.model:
        threshold = decision_threshold(candidate.model, settings).value
        return predicted_frames(candidate.model, dataset, settings, threshold)
    return predictions_in_folder(candidate.folder, dataset).frames(dataset)


def compare(
    candidates: Sequence[Candidate],
    dataset: Dataset,
    work: Path,
    settings: CamSettings | None = None,
    *,
    num_pictures: int = 12,
    advance: Advance = lambda steps: None,
) -> Comparison:
    """Compare candidates on the frames that have a drawn mask or, where none has, on all with each other.

    Args:
        candidates: at least one; two where no frame has a mask.
        dataset: the frames.
        work: folder into which the pictures are written, as long as the report is not.
        settings: how models make scores.
        num_pictures: how many frames to draw, the worst ones.
        advance: called with the number of steps done, up to `num_steps`.

    Raises:
        UsageError: no candidate, a single one without drawn masks, or as `check_candidate`.
        DatasetError: as `check_candidate`; or a file is missing or damaged.
        ModelFileError: as `check_candidate`.
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
        runs.append(Run(candidate.folder, result, history, read_pictures(work / str(index))))
    return Comparison(tuple(runs), pairs)


def num_steps(candidates: Sequence[Candidate], dataset: Dataset) -> int:
    """Return how many steps `compare` takes."""
    drawn = _num_drawn(dataset)
    return sum(_passes(candidate) for candidate in candidates) * drawn if drawn else len(dataset)


def _num_drawn(dataset: Dataset) -> int:
    return sum(frame.mask is not None for frame in dataset.frames)


def _passes(candidate: Candidate) -> int:
    """Return how often `_evaluate` looks at a frame."""
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
    """Compare the candidates with each other, all of them on one frame after the other, so that no mask is kept."""
    if len(candidates) < 2:
        raise UsageError(
            f"{dataset.path}: no frame has a drawn mask, so there is nothing to compare {candidates[0].folder} with: "
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
