"""Models and pseudo masks on the same frames, with drawn masks and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.evaluation.evaluate import evaluate_masks, evaluate_model
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import LoadedModel, save_model
from deal_core.report.compare import (
    Candidate,
    check_candidate,
    compare,
    num_steps,
    open_candidate,
    predict_frames,
)
from deal_core.structures import ClassList

CPU = CamSettings(device="cpu", flip=False)
MakeModel = Callable[..., LoadedModel]


@pytest.fixture(scope="module")
def masks(model: LoadedModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    assert all(write_cams(model, dataset, folder, CPU, ignore_band=(0.3, 0.6)))
    return folder


def undrawn(dataset: Dataset) -> Dataset:
    """Return the same frames without the masks that someone drew."""
    frames = [
        FrameRecord(f.recording, f.stamp_ns, f.color, f.depth, None, f.tags, f.segment, f.name) for f in dataset.frames
    ]
    return Dataset(dataset.path, dataset.classes, frames)


def test_with_drawn_masks_it_finds_what_evaluations_find(
    make_model: MakeModel, model: LoadedModel, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    other = make_model(6)
    candidates = [Candidate("a", tmp_path, model), Candidate("b", tmp_path, other), open_candidate(masks, "c")]
    done: list[int] = []
    found = compare(candidates, dataset, tmp_path / "work", CPU, num_pictures=4, advance=done.append)
    expected = [
        evaluate_model(model, dataset, CPU, name="a"),
        evaluate_model(other, dataset, CPU, name="b"),
        evaluate_masks(masks, dataset, name="c"),
    ]
    assert found.pairs is None
    assert [run.evaluation.to_json() for run in found.runs] == [result.to_json() for result in expected]
    assert done == sorted(done) and done[-1] == num_steps(candidates, dataset) == 5 * len(dataset)
    verdicts = [run.verdict for run in found.runs]
    assert all(v is not None and v.frames == len(dataset) and len(v.classes) == len(dataset.classes) for v in verdicts)
    keys = [{picture.key for picture in run.pictures} for run in found.runs]
    assert keys[0] == keys[1] == keys[2] and len(keys[0]) == 4, "all draw the same frames"
    assert "cam" in found.runs[0].pictures[0].files and "cam" not in found.runs[2].pictures[0].files


def test_without_drawn_masks_it_finds_where_they_differ(
    make_model: MakeModel, model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    frames = undrawn(dataset)
    candidates = [Candidate(str(i), tmp_path, m) for i, m in enumerate((model, model, make_model(6)))]
    found = compare(candidates, frames, tmp_path / "work", CPU, num_pictures=3)
    assert found.pairs is not None
    assert found.pairs[0, 1] == 1 and found.pairs[0, 2] < 1
    twin, _, stranger = (run.evaluation for run in found.runs)
    assert twin.auto and stranger.auto and stranger.auto.miou < twin.auto.miou
    average = np.mean([[frame.iou for frame in run.evaluation.per_frame] for run in found.runs], axis=0)
    assert frames.frames[int(average.argmin())].key in {picture.key for picture in found.runs[0].pictures}
    assert "truth" not in found.runs[0].pictures[0].files


def test_masks_that_are_there_are_taken_as_they_are(model: LoadedModel, masks: Path, dataset: Dataset) -> None:
    own = predict_frames(Candidate("model", masks, model), dataset, CPU)
    for frame, ours in zip(predict_frames(open_candidate(masks), dataset, CPU), own, strict=True):
        decided = frame.mask != 255
        assert frame.sample.key == ours.sample.key and frame.scores is None and ours.scores is not None
        assert (frame.mask[decided & (ours.mask > 0)] == ours.mask[decided & (ours.mask > 0)]).all()


def test_what_can_be_compared_is_found_by_what_lies_there(model: LoadedModel, masks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(run / "model.safetensors", model.network, model.info)
    assert open_candidate(run).model and open_candidate(run).name == "run"
    assert open_candidate(run / "model.safetensors", "mine").name == "mine"
    assert open_candidate(masks).model is None
    with pytest.raises(UsageError, match="found a folder without either"):
        open_candidate(tmp_path)
    with pytest.raises(UsageError, match="found nothing"):
        open_candidate(tmp_path / "none")


def test_what_cannot_be_compared_is_refused_before_any_work(
    make_model: MakeModel, model: LoadedModel, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    stranger = Candidate("x", tmp_path, make_model(classes=ClassList(("a", "b", "c"))))
    with pytest.raises(ModelFileError, match="the model is for the classes a, b, c"):
        check_candidate(stranger, dataset, CPU)
    few = dataset.subset(predicate=lambda frame: frame in dataset.frames[:2])
    assert all(write_cams(model, few, tmp_path / "few", CPU))
    with pytest.raises(DatasetError, match=f"lacks the masks of {len(dataset) - 2} of {len(dataset)} frames"):
        compare([open_candidate(tmp_path / "few")], dataset, tmp_path / "work", CPU)
    with pytest.raises(UsageError, match="name two or more"):
        compare([open_candidate(masks)], undrawn(dataset), tmp_path / "work", CPU)
    with pytest.raises(UsageError, match="at least one"):
        compare([], dataset, tmp_path / "work", CPU)
    assert not (tmp_path / "work").exists()
