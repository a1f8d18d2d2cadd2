"""Masks of a teacher are mapped, vetoed by tags, flagged, and written as a folder that everything reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.teacher_frames import CLASSES, HEIGHT, WIDTH, drawn, masks_in

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.errors import DatasetError, UsageError
from deal_core.evaluation.evaluate import evaluate_masks
from deal_core.label_tools.importing import ImportSettings, import_masks, parse_names
from deal_core.label_tools.layers import Layer
from deal_core.masks.mask_folder import check_masks
from deal_core.structures import TagMarker, TagState

KEYS = [f"{recording}/{stamp}000000000" for recording in ("hall", "shop") for stamp in (1, 2, 3)]


class Made:
    """A source that a test makes: boxes `(label, top, bottom, left, right)` of each image, the lowest first."""

    path = Path("teacher")
    notes = ("a remark",)

    def __init__(self, objects: dict[str, list[tuple[str, int, int, int, int]]]) -> None:
        self.objects = objects

    @property
    def images(self) -> list[str]:
        return list(self.objects)

    def labels(self, image: str) -> set[str]:
        return {label for label, *_ in self.objects[image]}

    def layers(self, image: str, frame: FrameRecord, size: tuple[int, int]) -> list[Layer]:
        assert size == (HEIGHT, WIDTH)
        found = []
        for label, top, bottom, left, right in self.objects[image]:
            covered = np.zeros(size, bool)
            covered[top:bottom, left:right] = True
            found.append(Layer.of(label, covered))
        return found


def tagged(dataset: Dataset, present: tuple[str, ...], absent: tuple[str, ...] = ()) -> Dataset:
    frames = [replace(f, tags=TagState(present, absent, TagMarker.PARTIAL)) for f in dataset.frames]
    return Dataset(dataset.path, dataset.classes, frames)


def test_names_become_classes_and_later_objects_cover_earlier_ones(dataset: Dataset, tmp_path: Path) -> None:
    objects = [("cup", 0, 9, 0, 9), ("jar", 4, 12, 4, 12), ("table", 8, 30, 0, 6), ("unlabelled", 0, 2, 40, 48)]
    settings = ImportSettings(names={"cup": "mug", "table": "background"}, veto=False)
    summary = import_masks(Made(dict.fromkeys(KEYS, objects)), dataset, tmp_path / "out", settings)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[0:9, 0:9], expected[4:12, 4:12], expected[8:30, 0:6], expected[0:2, 40:48] = 1, 2, 0, 255
    for mask in masks_in(tmp_path / "out", dataset).values():
        np.testing.assert_array_equal(mask, expected)
    of_class = {one.name: one for one in summary.classes}
    assert of_class["mug"].frames == 6 and of_class["mug"].pixels == 6 * int((expected == 1).sum())
    assert summary.frames == 6 and summary.without == 0 and summary.notes == ("a remark",)


def test_an_unknown_name_is_an_error_that_names_all_of_them(dataset: Dataset, tmp_path: Path) -> None:
    source = Made({KEYS[0]: [("mugg", 0, 5, 0, 5), ("sofa", 6, 9, 0, 5)], KEYS[1]: [("sofa", 0, 5, 0, 5)]})
    with pytest.raises(
        DatasetError, match=r"mugg \(in 1 masks\), sofa \(in 2 masks\); expected mug, jar, box\. Did you mean 'mug'\?"
    ):
        import_masks(source, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = import_masks(source, dataset, tmp_path / "out", ImportSettings(others="unlabelled"))
    assert summary.others == {"mugg": 1, "sofa": 2} and summary.without == 4
    assert {int(v) for m in masks_in(tmp_path / "out", dataset).values() for v in np.unique(m)} == {0, 255}
    summary = import_masks(source, dataset, tmp_path / "other", ImportSettings(others="background"))
    assert not any(mask.any() for mask in masks_in(tmp_path / "other", dataset).values())


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (["cup"], "expected `name=class`"),
        (["cup=mugg"], "Did you mean 'mug'"),
        (["=mug"], "expected `name=class`"),
        (["cup=mug", "cup=jar"], "each name once"),
    ],
)
def test_a_wrong_mapping_is_refused(pairs: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_names(pairs, CLASSES)


def test_a_mapping_of_a_name_that_is_not_there_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--map: 'cups' is in no mask of teacher: expected one of cup"):
        import_masks(Made({KEYS[0]: [("cup", 0, 5, 0, 5)]}), dataset, tmp_path / "o", ImportSettings({"cups": "mug"}))


def test_tags_remove_a_class_that_is_absent_and_flag_one_that_is_missing(dataset: Dataset, tmp_path: Path) -> None:
    frames = tagged(dataset, ("mug",), ("jar",))
    source = Made({KEYS[0]: [("mug", 0, 20, 0, 20), ("jar", 5, 15, 5, 15), ("box", 30, 36, 0, 4)], KEYS[1]: []})
    summary = import_masks(source, frames, tmp_path / "out")
    mask = masks_in(tmp_path / "out", dataset)[KEYS[0]]
    # Where the jar was, the mug below it shows; nothing is known of the box.
    assert (mask[0:20, 0:20] == 1).all() and (mask[30:36, 0:4] == 3).all() and not (mask == 2).any()
    mug, jar, box = summary.classes
    assert (mug.missing, mug.vetoed, jar.vetoed, jar.vetoed_pixels, box.vetoed) == (1, 0, 1, 100, 0)
    assert summary.flagged == (KEYS[1],)
    import_masks(source, frames, tmp_path / "unknown", ImportSettings(vetoed="unlabelled"))
    assert (masks_in(tmp_path / "unknown", dataset)[KEYS[0]][5:15, 5:15] == 255).all()
    import_masks(source, frames, tmp_path / "kept", ImportSettings(veto=False))
    assert (masks_in(tmp_path / "kept", dataset)[KEYS[0]][5:15, 5:15] == 2).all()


def test_a_mask_that_lacks_a_tagged_class_can_be_skipped_or_lose_its_background(
    dataset: Dataset, tmp_path: Path
) -> None:
    frames = tagged(dataset, ("mug", "box"))
    source = Made({KEYS[0]: [("mug", 0, 5, 0, 5)], KEYS[1]: [("mug", 0, 5, 0, 5), ("box", 9, 15, 0, 5)]})
    summary = import_masks(source, frames, tmp_path / "few", ImportSettings(missing="skip"))
    assert (summary.frames, summary.skipped, summary.without) == (1, 1, 5)
    assert list(masks_in(tmp_path / "few", dataset)) == [KEYS[1]]
    import_masks(source, frames, tmp_path / "open", ImportSettings(missing="unlabelled"))
    open_, whole = masks_in(tmp_path / "open", dataset).values()
    assert set(np.unique(open_)) == {1, 255} and set(np.unique(whole)) == {0, 1, 3}


def test_imported_masks_are_evaluated_as_those_of_cams(dataset: Dataset, tmp_path: Path) -> None:
    truth = drawn(dataset)

    class Truth(Made):
        def labels(self, image: str) -> set[str]:
            return {CLASSES.names[i - 1] for i in np.unique(truth[image]) if i}

        def layers(self, image: str, frame: FrameRecord, size: tuple[int, int]) -> list[Layer]:
            return [Layer.of(CLASSES.names[i - 1], truth[image] == i) for i in np.unique(truth[image]).tolist() if i]

    import_masks(Truth({key: [] for key in KEYS}), dataset, tmp_path / "out")
    result = evaluate_masks(tmp_path / "out", dataset, name="teacher")
    assert result.auto is not None and result.auto.miou == 1 and result.auto.rule == "imported"
    assert result.auto.threshold is None
    about = json.loads((tmp_path / "out" / "cams.json").read_text())
    assert about["source"]["path"] == "teacher" and len(about["model"]) == 64
    assert check_masks(tmp_path / "out", dataset).rule == "imported"


def test_only_a_folder_of_masks_is_replaced_and_only_on_request(dataset: Dataset, tmp_path: Path) -> None:
    one, other = Made({KEYS[0]: [("mug", 0, 5, 0, 5)]}), Made({KEYS[1]: [("mug", 0, 5, 0, 5)]})
    as_it_is = ImportSettings(veto=False)
    import_masks(one, dataset, tmp_path / "out", as_it_is)
    with pytest.raises(DatasetError, match=r"out holds masks: choose another folder, or replace it with --overwrite"):
        import_masks(other, dataset, tmp_path / "out", as_it_is)
    assert list(masks_in(tmp_path / "out", dataset)) == [KEYS[0]]
    import_masks(other, dataset, tmp_path / "out", as_it_is, overwrite=True)
    assert list(masks_in(tmp_path / "out", dataset)) == [KEYS[1]]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(DatasetError, match=r"mine exists and holds no cams.json, so it is no folder of masks"):
        import_masks(one, dataset, tmp_path / "mine", as_it_is, overwrite=True)
    with pytest.raises(UsageError, match="lies among the recordings"):
        import_masks(one, dataset, dataset.path / "recordings" / "hall", as_it_is)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"


def test_snap_needs_depth(dataset: Dataset, tmp_path: Path) -> None:
    flat = Dataset(dataset.path, CLASSES, [replace(frame, depth=None) for frame in dataset.frames])
    with pytest.raises(UsageError, match="--snap needs depth"):
        import_masks(Made({KEYS[0]: []}), flat, tmp_path / "out", ImportSettings(snap=True))
