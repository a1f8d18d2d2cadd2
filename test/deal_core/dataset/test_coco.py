"""COCO 2014: masks against pixel loops, both conventions of class ids, and what is wrong in annotations."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.layouts import COCO_CATEGORIES, HEIGHT, WIDTH, make_coco
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coder

from deal_core.dataset.check import check_source
from deal_core.dataset.coco import decode_segmentation, open_coco
from deal_core.dataset.dataset import FrameRecord
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import TagState


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "coco")


def edit(root: Path, change: Callable[[Any], Any], split: str = "train2014") -> None:
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """Runs of 0 and 1 in turn, down the columns."""
    flat = [value % 2 for value, count in enumerate(counts) for _ in range(count)]
    mask = np.zeros((height, width), bool)
    for place, value in enumerate(flat):
        mask[place % height, place // height] = bool(value)
    return mask


def polygon(points: list[float], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the centre of each pixel is inside, by counting crossings; and its distance to the outline."""
    corners = [(points[i], points[i + 1]) for i in range(0, len(points), 2)]
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    inside, distance = np.zeros((height, width), bool), np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            for (x0, y0), (x1, y1) in edges:
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                    inside[row, column] ^= True
                along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
                t = min(max(along, 0.0), 1.0)
                gap = ((x0 + t * (x1 - x0) - x) ** 2 + (y0 + t * (y1 - y0) - y) ** 2) ** 0.5
                distance[row, column] = min(distance[row, column], gap)
    return inside, distance


def expected_mask(entries: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Category ids by pixel, the smallest object on top; and where rounding of an outline may decide."""
    shapes, unsure = [], np.zeros((HEIGHT, WIDTH), bool)
    for entry in entries:
        if entry["iscrowd"]:
            covered = run_lengths(entry["segmentation"]["counts"], HEIGHT, WIDTH)
        else:
            covered = np.zeros((HEIGHT, WIDTH), bool)
            for points in entry["segmentation"]:
                inside, distance = polygon(points, HEIGHT, WIDTH)
                covered |= inside
                # Outlines along whole pixels leave nothing to rounding.
                unsure |= (distance < 1) & any(p != int(p) for p in points)
        shapes.append((entry["category_id"], covered))
    mask = np.zeros((HEIGHT, WIDTH), int)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            here = [(int(covered.sum()), category) for category, covered in shapes if covered[row, column]]
            mask[row, column] = min(here)[1] if here else 0
    return mask, unsure


@pytest.mark.parametrize("class_ids", ["contiguous", "category"])
def test_masks_equal_those_composed_pixel_by_pixel(root: Path, class_ids: Any) -> None:
    dataset = pickle.loads(pickle.dumps(open_coco(root, "", class_ids)))
    content = json.loads((root / "annotations" / "instances_train2014.json").read_text())
    for index, frame in enumerate(dataset.frames):
        entries = [a for a in content["annotations"] if a["image_id"] == frame.stamp_ns]
        categories, unsure = expected_mask(entries)
        expected = [[sorted(COCO_CATEGORIES).index(i) + 1 if i else 0 for i in row] for row in categories.tolist()]
        wanted = categories if class_ids == "category" else np.array(expected)
        sample = dataset.load(index)
        assert sample.mask is not None and sample.mask.dtype == np.uint8
        np.testing.assert_array_equal(sample.mask[~unsure], wanted[~unsure])
        assert unsure.mean() < 0.15
        present = {COCO_CATEGORIES[a["category_id"]] for a in entries}
        assert set(frame.tags.present) == present
        assert sample.tags.sum() == len(present) and not np.isnan(sample.tags).any()


def test_images_without_annotations_are_left_out_and_counted(root: Path) -> None:
    dataset = open_coco(root)
    assert [f.name for f in dataset.frames] == [f"COCO_train2014_{i:012d}" for i in (1, 2, 3, 5)]
    assert dataset.notes == ("1 of 5 images have no annotation and are left out",)
    assert len(open_coco(root, "val2014")) == 2 and open_coco(root, "val2014").notes == ()


def test_class_lists_of_both_conventions(root: Path) -> None:
    assert open_coco(root).classes.names == tuple(COCO_CATEGORIES.values())
    names = open_coco(root, class_ids="category").classes.names
    assert len(names) == 90 and names[11] == "unused 12"
    assert {i: names[i - 1] for i in COCO_CATEGORIES} == COCO_CATEGORIES
    assert sum(name.startswith("unused") for name in names) == 90 - len(COCO_CATEGORIES)
    settings = SourceSettings(path=root, format="coco", split="val2014", class_ids="category")
    assert open_dataset(settings).classes.names == names


def test_images_may_lie_in_a_folder_of_their_own(root: Path) -> None:
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    assert open_coco(root).load(0).image.shape == (HEIGHT, WIDTH, 3)


def test_compressed_run_lengths_are_those_of_the_plain_ones(root: Path) -> None:
    from pycocotools import mask as coder

    before = open_coco(root).load(2).mask

    def compress(content: Any) -> None:
        for entry in content["annotations"]:
            if entry["iscrowd"]:
                coded = coder.frPyObjects(entry["segmentation"], HEIGHT, WIDTH)
                entry["segmentation"] = {"size": coded["size"], "counts": coded["counts"].decode()}

    edit(root, compress)
    np.testing.assert_array_equal(open_coco(root).load(2).mask, before)


# --- the two conventions


def write_masks(root: Path, class_ids: Any) -> None:
    dataset = open_coco(root, "", class_ids)
    (root / "masks" / "train2014").mkdir(parents=True)
    for index, frame in enumerate(dataset.frames):
        cv2.imwrite(str(root / "masks" / "train2014" / f"{frame.name}.png"), dataset.load(index).mask)


@pytest.mark.parametrize("class_ids", ["contiguous", "category"])
def test_masks_made_elsewhere_are_read_in_one_convention_only(root: Path, class_ids: Any) -> None:
    drawn = [open_coco(root, "", class_ids).load(i).mask for i in range(4)]
    write_masks(root, class_ids)
    dataset = open_coco(root, "", class_ids)
    assert any("masks are read from" in note for note in dataset.notes)
    for index, mask in enumerate(drawn):
        np.testing.assert_array_equal(dataset.load(index).mask, mask)
    other = "category" if class_ids == "contiguous" else "contiguous"
    report = check_source(SourceSettings(path=root, format="coco", class_ids=other))
    assert len(report.errors) == 4
    assert all("the other convention" in error and "choose it with class_ids" in error for error in report.errors)


# --- what is wrong


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("images"), "is not COCO: expected lists .* images is missing"),
        (lambda c: c.pop("categories"), "is not COCO: expected lists .* categories is missing"),
        (lambda c: c["annotations"][0].pop("image_id"), "entry 0 of annotations has no image_id"),
        (lambda c: c["images"].append(7), "entry 5 of images has no id"),
        (lambda c: c["annotations"][0].update(category_id=12), "annotation 1 has the unknown category id 12"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotations have 1 image ids without an image: 77"),
        (lambda c: c["annotations"].clear(), "contains no image with annotations"),
        (lambda c: c["categories"].append({"id": 1, "name": "twice"}), "unique ids of at least 0"),
        (lambda c: c["categories"].append({"id": 2, "name": "person"}), "class names must be unique"),
        (lambda c: c["categories"].append({"id": -1, "name": "below"}), "unique ids of at least 0"),
        (lambda c: c["images"][0].update(file_name="../x.jpg"), r"expected a file inside .*'\.\./x\.jpg'"),
        (lambda c: c["images"][0].update(file_name="a.jpg"), r"lacks 1 of 4 images: a\.jpg"),
    ],
)
def test_annotations_that_are_wrong(root: Path, change: Callable[[Any], Any], said: str) -> None:
    edit(root, change)
    with pytest.raises(DatasetError, match=said):
        open_coco(root)
    assert len(check_source(SourceSettings(path=root, format="coco")).errors) == 1


@pytest.mark.parametrize(("text", "said"), [("{", "cannot be read"), ("[]", "is not COCO"), ("3", "is not COCO")])
def test_json_that_is_not_coco(root: Path, text: str, said: str) -> None:
    (root / "annotations" / "instances_train2014.json").write_text(text)
    with pytest.raises(DatasetError, match=said):
        open_coco(root)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 2, 3]], "is neither polygons nor run lengths"),
        ({"counts": [3, 4]}, "is neither polygons nor run lengths"),
        ({"size": [5, 7], "counts": [30, 5]}, r"has size \[5, 7\], expected the image's size \[48, 64\]"),
        ({"size": [48, 64], "counts": [30, 9000]}, "is neither polygons nor run lengths"),
        ("rubbish", "is neither polygons nor run lengths"),
        ({"size": [48, 64], "counts": "5" * 40 + "o"}, "the run lengths end within a number"),
        ({"size": [48, 64], "counts": "o" * 40}, "a character of the run lengths is not COCO's"),
        ({"size": [48, 64], "counts": "\x01"}, "a character of the run lengths is not COCO's"),
        ({"size": [48, 64], "counts": "O"}, "a run length is no whole number from 0"),
        ({"size": [48, 64], "counts": [30, 2.5]}, "a run length is no whole number from 0"),
    ],
)
def test_segmentations_that_are_wrong_are_named_at_load(root: Path, segmentation: Any, said: str) -> None:
    edit(root, lambda c: c["annotations"][0].update(segmentation=segmentation))
    dataset = open_coco(root)
    with pytest.raises(DatasetError, match=said) as caught:
        dataset.load(0)
    assert "COCO_train2014_000000000001" in str(caught.value)
    dataset.load(1)


def test_missing_splits_folders_and_images_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'test2014'.*train2014, val2014"):
        open_coco(root, "test2014")
    with pytest.raises(DatasetError, match=r"is not a COCO dataset: expected .*instances_train2014\.json"):
        open_coco(tmp_path)
    file = root / "train2014" / "COCO_train2014_000000000003.jpg"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    report = check_source(SourceSettings(path=root, format="coco"))
    assert len(report.errors) == 1 and f"{file} is damaged" in report.errors[0]
    file.unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 of 4 images: COCO_train2014_000000000003\.jpg"):
        open_coco(root)
    (root / "train2014").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match="has no images of train2014: expected the folder"):
        open_coco(root)


# --- what other tools write


def own(
    root: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], ids: tuple[int, int] = (0, 1)
) -> Path:
    """A dataset of a mug and a kettle; an image without a file yet becomes a black one of 80x60."""
    for entry in images:
        file = root / "train2014" / entry["file_name"]
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.zeros((60, 80, 3), np.uint8))
    categories = [{"id": i, "name": name} for i, name in zip(ids, ("mug", "kettle"), strict=True)]
    (root / "annotations").mkdir(parents=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    return root


def square(image: int, category: int, x: int, y: int, side: int) -> dict[str, Any]:
    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"image_id": image, "category_id": category, "segmentation": [outline]}


def boxes(mask: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """First and last row and column of each id."""
    found = {i: np.argwhere(mask == i) for i in np.unique(mask).tolist() if i}
    return {i: (*at.min(axis=0).tolist(), *at.max(axis=0).tolist()) for i, at in found.items()}


def test_an_image_is_its_whole_path(tmp_path: Path) -> None:
    names = ("kitchen/0001.jpg", "lab/0001.jpg", "lab/0002.png", "lab/0002.jpg")
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    root = own(tmp_path, images, [square(i, i % 2, 10 * i, 5, 10) for i in range(4)])
    dataset = open_coco(root)
    assert [f.name for f in dataset.frames] == ["kitchen/0001", "lab/0001", "lab/0002.png", "lab/0002.jpg"]
    for i, frame in enumerate(dataset.frames):
        assert boxes(dataset.load(frame).mask) == {i % 2 + 1: (5, 10 * i, 14, 10 * i + 9)}
        assert frame.tags.present == (("mug", "kettle")[i % 2],)


def test_an_image_that_is_listed_twice_is_one_frame_with_all_its_objects(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "x.png"}, {"id": 2, "file_name": "x.png"}, {"id": 1, "file_name": "x.png"}]
    dataset = open_coco(own(tmp_path, images, [square(1, 0, 0, 0, 10), square(2, 1, 20, 0, 10)]))
    assert len(dataset) == 1 and dataset.frames[0].tags.present == ("kettle", "mug")
    assert boxes(dataset.load(0).mask) == {1: (0, 0, 9, 9), 2: (0, 20, 9, 29)}
    assert "1 images are listed more than once; their annotations are joined" in dataset.notes


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"id": 1, "file_name": "y.png"}, r"two images have the id 1: x\.png, y\.png"),
        ({"id": 2, "file_name": "x.png", "width": 40, "height": 30}, r"x\.png is listed with the sizes"),
    ],
)
def test_an_id_of_two_images_and_an_image_of_two_sizes_are_refused(
    tmp_path: Path, second: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        open_coco(own(tmp_path, [{"id": 1, "file_name": "x.png"}, second], [square(1, 0, 0, 0, 9)]))


def test_ids_from_zero_and_with_gaps_are_numbered(tmp_path: Path) -> None:
    root = own(tmp_path, [{"id": 0, "file_name": "x.png"}], [square(0, 7, 0, 0, 9)], ids=(0, 7))
    dataset = open_coco(root)
    assert dataset.classes.names == ("mug", "kettle") and boxes(dataset.load(0).mask) == {2: (0, 0, 8, 8)}
    with pytest.raises(DatasetError, match="0 is the background; class_ids: contiguous numbers them from 1"):
        open_coco(root, class_ids="category")


RUNS = {"size": [120, 160], "counts": [40 * 120 + 20, *[40, 80] * 39, 40, 80 * 120 + 60]}
"""Rows 20 to 59 of columns 40 to 79 of an image of 160x120."""


@pytest.mark.parametrize("segmentation", [[[40, 20, 80, 20, 80, 60, 40, 60]], RUNS], ids=["polygon", "run lengths"])
def test_outlines_of_a_copy_of_another_size_are_scaled(tmp_path: Path, segmentation: Any) -> None:
    images = [{"id": 1, "file_name": "x.png", "width": 160, "height": 120.0}]
    annotation = {"image_id": 1, "category_id": 0, "segmentation": segmentation}
    assert boxes(open_coco(own(tmp_path, images, [annotation])).load(0).mask) == {1: (10, 20, 29, 39)}


@pytest.mark.parametrize("size", [(60, 80), (160, 90)])
def test_outlines_of_an_image_of_another_shape_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    images = [{"id": 1, "file_name": "x.png", "width": size[0], "height": size[1]}]
    dataset = open_coco(own(tmp_path, images, [square(1, 0, 0, 0, 9)]))
    with pytest.raises(DatasetError, match=rf"has size \[{size[1]}, {size[0]}\], expected the image's size \[60, 80\]"):
        dataset.load(0)


@pytest.mark.parametrize("shown", [True, False], ids=["as shown", "as stored"])
def test_outlines_follow_a_photo_that_is_turned(tmp_path: Path, shown: bool) -> None:
    """The photo is stored 80x60 and shown 60x80, turned by a quarter to the right."""
    stored = np.zeros((60, 80, 3), np.uint8)
    stored[5:15, 10:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "train2014").mkdir()
    Image.fromarray(stored).save(tmp_path / "train2014" / "x.jpg", exif=exif, quality=95)
    width, height = (60, 80) if shown else (80, 60)
    x, y = (45, 10) if shown else (10, 5)
    images = [{"id": 1, "file_name": "x.jpg", "width": width, "height": height}]
    sample = open_coco(own(tmp_path, images, [square(1, 0, x, y, 10)])).load(0)
    assert sample.image.shape == (80, 60, 3)
    np.testing.assert_array_equal(sample.mask == 1, sample.image[..., 0] > 128)


def test_an_object_that_is_only_a_box_tags_its_image_and_draws_no_mask(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    box = {"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4], "segmentation": []}
    dataset = open_coco(own(tmp_path, images, [box, square(1, 1, 0, 0, 9), square(2, 1, 0, 0, 9)]))
    assert dataset.frames[0].tags.present == ("kettle", "mug")
    assert dataset.load(0).mask is None and dataset.load(1).mask is not None
    assert "1 images have an annotation without an outline, and so tags but no mask" in dataset.notes


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**16), st.floats(0, 1))
def test_run_lengths_are_read_as_pycocotools_reads_them(height: int, width: int, seed: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    text = coder.encode(np.asfortranarray(mask))["counts"].decode()
    frame = FrameRecord("a", 0, Path("0.png"), None, Path("a.json"), TagState(), 0)
    found = decode_segmentation(frame, {"size": [height, width], "counts": text}, mask.shape, mask.shape)
    np.testing.assert_array_equal(found, mask.astype(bool))
