"""The folder of pictures: which frames are shown, what lies on the disk, and what is refused."""

import json
import math
import re

import cv2
import numpy as np
import pytest
from helpers.pictures import CLASSES, scene

from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import FrameScore
from deal_core.evaluation.picture_folder import PARTS, PictureWriter, choose_frames, read_pictures, worst_frames


def test_frames_worth_showing_are_the_worst_and_a_spread_up_to_the_best():
    frames = [FrameScore(f"f{i:02}", i / 20) for i in range(20)] + [FrameScore("unlabelled", math.nan)]
    keys = choose_frames(frames[::-1], 6)
    assert keys[:3] == ("f00", "f01", "f02")
    assert keys[-1] == "f19"
    assert len(set(keys)) == 6
    assert list(keys) == sorted(keys)
    assert choose_frames(frames[:2], 12) == ("f00", "f01")
    assert choose_frames([], 12) == ()
    assert choose_frames([FrameScore("b", 0.5), FrameScore("a", 0.5)], 1) == ("a",)


def test_the_worst_of_several_runs_are_those_of_the_mean_and_of_each_in_turn():
    ours, theirs = (0.5, 0.2, 0.9, 0.8, math.nan), (0.5, 0.9, 0.1, 0.7, math.nan)
    runs = [[FrameScore(key, iou) for key, iou in zip("abcde", ious, strict=True)] for ious in (ours, theirs)]
    assert worst_frames(runs, 3) == ("a", "b", "c")
    assert worst_frames(runs, 9) == ("a", "b", "c", "d", "e")
    assert worst_frames([[FrameScore("x", 0.9)], [FrameScore("y", 0.1)]], 1) == ("y",), "frames of one run alone"
    assert worst_frames([], 3) == worst_frames([[]], 3) == ()


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path):
    photo = tmp_path / "pictures" / "holiday.png"
    photo.parent.mkdir()
    photo.touch()
    with pytest.raises(EvaluationError, match=r"holds no pictures\.json"), PictureWriter(tmp_path, CLASSES):
        pass
    assert photo.exists()


def test_written_pictures_are_read_back_worst_first(tmp_path):
    image, mask, depth, scores = scene()
    with PictureWriter(tmp_path / "run", CLASSES) as writer:
        writer.add("good", 0.9, image=image, prediction=mask, truth=mask, depth=depth, scores=scores)
        writer.add("bad", 0.1, image=image, prediction=mask, scores=scores, tags=np.array([0.0, np.nan]))
        writer.add("unlabelled", math.nan, image=image, prediction=mask)
    pictures = read_pictures(tmp_path / "run")
    assert [p.key for p in pictures] == ["bad", "good", "unlabelled"]
    assert set(pictures[1].files) == set(PARTS)
    assert set(pictures[2].files) == {"image", "prediction"}
    stored = cv2.imread(str(pictures[1].files["image"]))[..., ::-1]
    np.testing.assert_array_equal(stored, image)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["pictures"]


def test_an_interrupted_writer_keeps_the_pictures_of_before(tmp_path):
    image, mask, _, _ = scene()
    with PictureWriter(tmp_path, CLASSES) as writer:
        writer.add("first", 0.5, image=image, prediction=mask)
    with pytest.raises(KeyboardInterrupt), PictureWriter(tmp_path, CLASSES) as writer:
        writer.add("second", 0.5, image=image, prediction=mask)
        raise KeyboardInterrupt
    assert [p.key for p in read_pictures(tmp_path)] == ["first"]
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_another_size_is_refused(tmp_path):
    image, mask, _, _ = scene()
    with (
        pytest.raises(ValueError, match=re.escape("prediction in the image's size (24, 32), found (12, 16)")),
        PictureWriter(tmp_path, CLASSES) as writer,
    ):
        writer.add("x", 0.5, image=image, prediction=mask[::2, ::2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format="x"), "'format': expected 'deal-pictures', found 'x'"),
        (lambda v: v.pop("pictures"), "'pictures' is missing"),
        (lambda v: v["pictures"][0]["files"].update(image="../../secret.png"), "secret.png"),
        (lambda v: v["pictures"][0]["files"].update(image="9_image.png"), "9_image.png is missing"),
        (lambda v: v["pictures"][0]["files"].update(colour="0_image.png"), "found colour"),
        (lambda v: v["pictures"][0].update(iou="nan"), "'pictures.0.iou'"),
        (lambda v: v["pictures"][0].update(key=3), "'pictures.0.key'"),
        (lambda v: v.update(pictures={}), "'pictures'"),
        (lambda v: v.update(version=2), "'version': expected 1, found 2"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, change, message):
    image, mask, _, _ = scene()
    with PictureWriter(tmp_path, CLASSES) as writer:
        writer.add("first", 0.5, image=image, prediction=mask)
    listing = tmp_path / "pictures" / "pictures.json"
    value = json.loads(listing.read_text())
    change(value)
    listing.write_text(json.dumps(value))
    with pytest.raises(EvaluationError, match=re.escape(message)) as error:
        read_pictures(tmp_path)
    assert str(listing) in str(error.value)


def test_a_run_without_pictures_has_none(tmp_path):
    assert read_pictures(tmp_path) == ()
