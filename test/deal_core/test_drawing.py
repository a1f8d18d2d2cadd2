"""Pictures: what the pixels say, what lies on the disk, and what is refused."""

import json
import math
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from deal_core.drawing import depth_edge_picture, depth_picture, heat_overlay, mask_overlay
from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import FrameScore
from deal_core.evaluation.picture_folder import PARTS, PictureWriter, choose_frames, read_pictures, worst_frames
from deal_core.report.summary_figure import SummaryFrame, SummaryRun, summary_figure
from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "drill"), ((255, 0, 0), (0, 0, 255)))
HEIGHT, WIDTH = 24, 32


def scene():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:16, 4:14] = 1
    mask[10:20, 18:28] = 2
    depth = np.where(mask > 0, 0.6, 1.0).astype(np.float32)
    depth[:2] = 0
    scores = np.stack([mask == 1, mask == 2]).astype(np.float32)
    return image, mask, depth, scores


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


def test_mask_overlay_outlines_in_the_class_colour_and_greys_the_rest():
    image, mask, _, _ = scene()
    picture = mask_overlay(image, mask, CLASSES)
    assert picture[6, 4].tolist() == [255, 0, 0]
    assert picture[10, 18].tolist() == [0, 0, 255]
    inside = picture[10, 8].astype(int)
    assert inside[0] > inside[1] + 100
    outside = picture[0, 0]
    assert outside[0] == outside[1] == outside[2]


def test_unlabelled_pixels_are_hatched_and_not_a_class():
    image, mask, _, _ = scene()
    mask[:] = 255
    picture = mask_overlay(image, mask, CLASSES)
    assert (picture == 225).all(axis=2).any()
    assert not (picture == 225).all()


def test_missing_depth_is_black_and_near_is_brighter_than_far():
    _, mask, depth, _ = scene()
    picture = depth_picture(depth)
    assert not picture[:2].any()
    assert picture[mask > 0].sum(axis=1).mean() > picture[(mask == 0) & (depth > 0)].sum(axis=1).mean() + 100
    assert not depth_picture(np.zeros((4, 4), np.float32)).any()


def test_depth_edges_are_bright_at_the_step_and_blue_where_nothing_is_known():
    _, _, depth, _ = scene()
    picture = depth_edge_picture(depth).astype(int)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[10, 3:6].max() > 100
    assert picture[22, 2].max() < 10
    assert picture[0, 0, 2] > picture[0, 0, 0]


def test_heat_is_bright_where_the_cam_is_high():
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    _, _, _, scores = scene()
    picture = heat_overlay(image, scores.max(0)).astype(int).sum(2)
    assert picture[8, 8] > picture[0, 0] + 100


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
        (lambda v: v.update(format="x"), "expected the format 'deal-pictures'"),
        (lambda v: v.pop("pictures"), "no key 'pictures'"),
        (lambda v: v["pictures"][0]["files"].update(image="../../secret.png"), "secret.png"),
        (lambda v: v["pictures"][0]["files"].update(image="9_image.png"), "9_image.png is missing"),
        (lambda v: v["pictures"][0]["files"].update(colour="0_image.png"), "found colour"),
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


@pytest.mark.slow
@pytest.mark.parametrize("limit", [60_000, 120_000])
def test_summary_figure_keeps_to_its_size(tmp_path, limit):
    image, mask, depth, _ = scene()
    frames = [SummaryFrame(image, depth, mask, [mask * 0, mask])] * 3
    runs = [SummaryRun("Tags only", 0.441), SummaryRun("DEAL", 0.51)]
    path = summary_figure(tmp_path / "docs" / "summary.png", frames, runs, CLASSES, title="Summary", max_bytes=limit)
    assert path.stat().st_size <= limit
    with Image.open(path) as picture:
        wide, high = picture.size
        columns = 5
        assert wide / high == pytest.approx(columns * 1.95 / (3 * 1.475 + 1.3), rel=0.1)
        # The prediction of the first run is empty, that of the second is not.
        cells = np.asarray(picture.convert("RGB")).astype(int)
    legend = cells[int(high * 0.85) :].reshape(-1, 3)
    assert all(np.abs(legend - color).max(axis=1).min() <= 4 for color in CLASSES.colors)
    reddish = (cells[..., 0] > cells[..., 1] + 80) & (cells[..., 0] > cells[..., 2] + 80)
    column = wide / columns
    first, last = 2, 3
    body = slice(high // 4, int(high * 0.85))
    assert reddish[body, int(last * column) : int((last + 1) * column)].sum() > 200
    assert reddish[body, int(first * column) : int((first + 1) * column)].sum() < 20
    assert [p.name for p in path.parent.iterdir()] == ["summary.png"]


def test_a_summary_with_a_missing_prediction_is_refused(tmp_path):
    image, mask, depth, _ = scene()
    with pytest.raises(ValueError, match="expected 2 predictions"):
        summary_figure(
            tmp_path / "x.png",
            [SummaryFrame(image, depth, mask, [mask])],
            [SummaryRun("a", 0), SummaryRun("b", 0)],
            CLASSES,
        )
    with pytest.raises(ValueError, match="at least one frame"):
        summary_figure(tmp_path / "x.png", [], [], CLASSES)
