"""BOP and HOPE: masks and depth against pixel loops, tags by visibility, and what is missing or wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.layouts import HEIGHT, WIDTH, make_hope
from PIL import Image

from deal_core.dataset.bop import HOPE_NAMES, missing_hope_sequences, open_bop
from deal_core.dataset.check import check_source
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.errors import DatasetError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_hope(tmp_path)


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_images_masks_and_depth_equal_those_composed_pixel_by_pixel(root: Path) -> None:
    scene = root / "val" / "000001"
    dataset = pickle.loads(pickle.dumps(open_bop(root, "val")))
    truth = json.loads((scene / "scene_gt.json").read_text())
    assert [f.key for f in dataset.frames] == ["000001/000000", "000001/000001"]
    assert dataset.has_depth and dataset.depth_kind == "metric"
    for index, frame in enumerate(dataset.frames):
        sample, number = dataset.load(index), frame.stamp_ns
        stored = cv2.imread(str(scene / "depth" / f"{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        shapes = [
            (entry["obj_id"], cv2.imread(str(scene / "mask_visib" / f"{number:06d}_{place:06d}.png"), 0))
            for place, entry in enumerate(truth[str(number)])
        ]
        assert sample.mask is not None
        for row in range(HEIGHT):
            for column in range(WIDTH):
                here = [thing for thing, shape in shapes if shape[row, column]]
                assert sample.mask[row, column] == (here[-1] if here else 0)
                metres = int(stored[row, column]) * 0.1 / 1000
                assert abs(float(sample.depth[row, column]) - metres) < 1e-6
                assert bool(sample.depth_valid[row, column]) == (metres > 0)
        np.testing.assert_array_equal(sample.image, cv2.imread(str(scene / "rgb" / f"{number:06d}.png"))[..., ::-1])


def test_sequences_are_recordings_and_sides_are_splits(root: Path) -> None:
    assert open_bop(root).recordings == [f"obj_{i:06d}_{s}" for i in (1, 2) for s in ("down", "up")]
    up, down = open_bop(root, "onboarding_static:up"), open_bop(root, "onboarding_static:down")
    assert up.recordings == ["obj_000001_up", "obj_000002_up"] and len(up) == len(down) == 6
    assert not set(up.recordings) & set(down.recordings) and up.classes == down.classes
    settings = SourceSettings(path=root, format="bop", recordings=("obj_000002_down",))
    assert [f.tags.present for f in open_dataset(settings).frames] == [("BBQSauce",)] * 3
    held = open_bop(root).split_by_segment(0.5, seed=1)
    assert not {f.recording for f in held.train.frames} & {f.recording for f in held.held_out.frames}


def test_classes_are_hopes_or_the_objects(root: Path, tmp_path: Path) -> None:
    assert open_bop(root, "val").classes.names == HOPE_NAMES and len(HOPE_NAMES) == 28
    other = tmp_path / "other"
    root.rename(other)
    assert open_bop(other, "val").classes.names == ("obj_000001", "obj_000002")
    (other / "models").mkdir()
    (other / "models" / "models_info.json").write_text(json.dumps({"1": {}, "2": {}, "5": {}}))
    assert open_bop(other, "val").classes.names == tuple(f"obj_{i:06d}" for i in range(1, 6))
    (other / "models" / "models_info.json").write_text(json.dumps({"1": {}}))
    with pytest.raises(DatasetError, match=r"names object 2, expected 1 to 1, the objects of .*models_info\.json"):
        open_bop(other, "val")


@pytest.mark.parametrize(("visible", "tagged"), [(0.0, False), (0.0999, False), (0.1, True), (1.0, True)])
def test_an_object_is_tagged_where_a_tenth_is_visible(root: Path, visible: float, tagged: bool) -> None:
    edit(root / "val" / "000001", "scene_gt_info.json", lambda c: c["0"][1].update(visib_fract=visible))
    dataset = open_bop(root, "val")
    assert ("BBQSauce" in dataset.frames[0].tags.present) == tagged
    assert 2 in np.unique(dataset.load(0).mask), "the mask holds it all the same"


def test_grey_cameras_jpeg_and_missing_kinds(root: Path) -> None:
    scene = root / "val" / "000001"
    (scene / "gray").mkdir()
    for file in (scene / "rgb").iterdir():
        cv2.imwrite(str(scene / "gray" / f"{file.stem}.jpg"), cv2.imread(str(file), 0))
        file.unlink()
    (scene / "rgb").rmdir()
    for folder in ("depth", "mask_visib"):
        (scene / folder).rename(scene / f"no_{folder}")
    dataset = open_bop(root, "val")
    sample = dataset.load(0)
    assert sample.image.shape == (HEIGHT, WIDTH, 3) and (sample.image[..., 0] == sample.image[..., 2]).all()
    assert sample.mask is None and not sample.depth_valid.any() and not dataset.has_depth
    assert dataset.frames[0].tags.present == ("AlphabetSoup", "BBQSauce")


def test_check_notes_which_sequences_of_hope_are_missing(root: Path) -> None:
    source = SourceSettings(path=root, format="bop")
    report = check_source(source, as_hope=True)
    assert report.errors == [] and report.depth_kind == "metric"
    first = report.recordings[0]
    assert (first.name, first.frames, first.masks, first.segments) == ("obj_000001_down", 3, 3, 1)
    assert first.gaps is None
    assert any("52 sequences of HOPE's static onboarding are missing: obj_000003_up" in n for n in report.notes)
    assert not any("sequences" in note for note in check_source(source).notes)
    assert missing_hope_sequences(["obj_000001_up"], "onboarding_static:up")[0] == "obj_000002_up"
    assert len(missing_hope_sequences([], "onboarding_static:up")) == 28 and missing_hope_sequences([], "val") == []


SEQUENCE = "onboarding_static/obj_000001_up"


def remove(*files: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / file).unlink() for file in files] and None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("scene_gt.json"), r"obj_000001_up has no scene_gt\.json.*published with its ground truth"),
        (remove("scene_camera.json"), r"has no scene_camera\.json"),
        (remove("rgb/000000.png", "rgb/000002.png"), r"lacks 2 of 12 images: .*up/rgb/000000\.png, .*000002\.png;"),
        (remove("depth/000001.png"), r"lacks 1 of 12 depth images: .*depth/000001\.png"),
        (remove("mask_visib/000001_000000.png"), r"lacks 1 of 12 masks: .*mask_visib/000001_000000\.png"),
        (lambda f: (f / "rgb").rename(f / "color"), "has no images: expected a folder rgb or gray"),
        (lambda f: (f / "scene_gt.json").write_text("{"), r"scene_gt\.json cannot be read"),
        (lambda f: (f / "scene_gt.json").write_text("[]"), r"scene_gt\.json: expected a JSON object"),
        (lambda f: edit(f, "scene_gt.json", lambda c: c.update(x=[])), r"scene_gt\.json: image x is wrong"),
        (
            lambda f: edit(f, "scene_gt.json", lambda c: c["0"][0].update(obj_id=29)),
            "names object 29, expected 1 to 28",
        ),
        (lambda f: edit(f, "scene_gt.json", lambda c: c["0"][0].pop("obj_id")), r"scene_gt\.json: image 0 is wrong"),
        (lambda f: edit(f, "scene_gt_info.json", lambda c: c.pop("1")), "image 1 is wrong"),
        (lambda f: edit(f, "scene_gt_info.json", lambda c: c["1"].append({})), "image 1 is wrong"),
        (lambda f: edit(f, "scene_camera.json", lambda c: c["1"].pop("depth_scale")), r"scene_camera\.json: image 1"),
    ],
)
def test_what_is_missing_or_wrong_is_counted_and_named(root: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(root / SEQUENCE)
    with pytest.raises(DatasetError, match=said):
        open_bop(root)
    assert len(check_source(SourceSettings(path=root, format="bop")).errors) == 1


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("rgb/000000.png", half, "image .* is damaged"),
        ("depth/000000.png", half, "depth image .* is damaged"),
        (
            "depth/000000.png",
            lambda f: cv2.imwrite(str(f), np.ones((24, 32), np.uint16)),
            r"depth of .*expected uint16 of the colour image's size \(48, 64\), found uint16 \(24, 32\)",
        ),
        ("depth/000000.png", lambda f: cv2.imwrite(str(f), np.ones((48, 64), np.uint8)), "expected uint16"),
        (
            "mask_visib/000000_000000.png",
            lambda f: cv2.imwrite(str(f), np.ones((4, 6), np.uint8)),
            r"found uint8 \(4, 6\)",
        ),
        (
            "mask_visib/000000_000000.png",
            lambda f: cv2.imwrite(str(f), np.ones((48, 64, 3), np.uint8)),
            "expected uint8",
        ),
    ],
)
def test_images_that_are_wrong_are_named_at_load(
    root: Path, file: str, damage: Callable[[Path], Any], said: str
) -> None:
    damage(root / SEQUENCE / file)
    dataset = open_bop(root, "onboarding_static:up")
    with pytest.raises(DatasetError, match=said):
        dataset.load(0)
    dataset.load(1)
    assert len(check_source(SourceSettings(path=root, format="bop")).errors) == 1


def test_splits_that_do_not_exist(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'test': expected one of onboarding_static, val"):
        open_bop(root, "test")
    with pytest.raises(UsageError, match="no split"):
        open_bop(root, "../hope/val")
    with pytest.raises(DatasetError, match="contains no sequence whose name ends in _left"):
        open_bop(root, "onboarding_static:left")
    with pytest.raises(DatasetError, match="is not a BOP dataset"):
        open_bop(tmp_path / "nothing")


def test_images_may_be_tiff_or_have_capital_suffixes(root: Path) -> None:
    before = [open_bop(root, "onboarding_static:up").load(i) for i in range(2)]
    for scene in (root / "onboarding_static").iterdir():
        for file in sorted((scene / "depth").iterdir()):
            Image.open(file).save(file.with_suffix(".tif"))
            file.unlink()
        for file in sorted((scene / "rgb").iterdir()):
            file.rename(file.with_suffix(".PNG"))
            (scene / "rgb" / f"._{file.name}").write_bytes(b"\0\x05\x16\x07")
    after = open_bop(root, "onboarding_static:up")
    for i, sample in enumerate(before):
        np.testing.assert_array_equal(after.load(i).image, sample.image)
        np.testing.assert_array_equal(after.load(i).depth, sample.depth)
