"""Masks as images: ids and colours, labelmap.txt, and the folders of ADE."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.teacher_frames import CLASSES, HEIGHT, WIDTH, boxes
from PIL import Image

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.flat_masks import FlatSource, open_ade, open_cvat_masks, open_png

SIZE = (HEIGHT, WIDTH)
NAME = "hall/1000000000.png"
IDS = {"mug": 1, "jar": 2, "box": 3, "unlabelled": 255}


def a_mask() -> np.ndarray:
    mask = boxes(np.random.default_rng(5))
    mask[:2] = 255
    return mask


def drawn(source: FlatSource, dataset: Dataset, ids: dict[str, int] = IDS, image: str = NAME) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for layer in source.layers(image, dataset.frames[0], SIZE):
        mask[layer.place][layer.part] = ids[layer.label]
    return mask


def save(file: Path, image: Image.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def in_palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


FORMS = {
    "grey": Image.fromarray,
    "palette": in_palette,
    "three channels": lambda mask: Image.fromarray(np.repeat(mask[..., None], 3, axis=2)),
    "colours": lambda mask: Image.fromarray(CLASSES.palette()[mask]),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_and_colours_are_classes(form: str, dataset: Dataset, tmp_path: Path) -> None:
    save(tmp_path / NAME, FORMS[form](a_mask()))
    source = open_png(tmp_path, CLASSES)
    assert source.images == [NAME] and source.labels(NAME) == {IDS_BACK[i] for i in np.unique(a_mask()) if i}
    np.testing.assert_array_equal(drawn(source, dataset), a_mask())


IDS_BACK = {number: name for name, number in IDS.items()}


def test_ids_and_colours_without_a_class_are_named_by_themselves(tmp_path: Path) -> None:
    save(tmp_path / "a.png", Image.fromarray(np.full(SIZE, 9, np.uint8)))
    save(tmp_path / "b.png", Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)))
    source = open_png(tmp_path, CLASSES)
    assert source.labels("a.png") == {"9"} and source.labels("b.png") == {"colour 1,2,3"}


def test_a_smaller_mask_is_enlarged_and_one_of_another_shape_refused(dataset: Dataset, tmp_path: Path) -> None:
    small = np.ascontiguousarray(a_mask()[::2, ::2])
    save(tmp_path / NAME, Image.fromarray(small))
    np.testing.assert_array_equal(drawn(open_png(tmp_path, CLASSES), dataset), small.repeat(2, 0).repeat(2, 1))
    save(tmp_path / NAME, Image.fromarray(a_mask()[:20]))
    with pytest.raises(DatasetError, match=r"1000000000.png: an annotation of image 1000000000 has size \[20, 48\]"):
        drawn(open_png(tmp_path, CLASSES), dataset)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("masks")
    with pytest.raises(DatasetError, match=r"expected masks as PNG .*, found readme.txt"):
        open_png(tmp_path, CLASSES)
    cv2.imwrite(str(tmp_path / "a.jpg"), a_mask())
    with pytest.raises(DatasetError, match=r"a.jpg is a JPEG"):
        open_png(tmp_path, CLASSES).labels("a.jpg")
    cv2.imwrite(str(tmp_path / "b.png"), a_mask().astype(np.uint16))
    with pytest.raises(DatasetError, match="expected uint8"):
        open_png(tmp_path, CLASSES).labels("b.png")


LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:250,50,83::\nunlabelled:255,255,255::\na:b:0,0,9::\n"
)


@pytest.mark.parametrize("form", ["colours", "palette"])
def test_masks_of_cvat_have_the_colours_of_labelmap(form: str, dataset: Dataset, tmp_path: Path) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[255], palette[7] = (250, 50, 83), 255, (0, 0, 9)
    mask = np.where(a_mask() == 255, np.uint8(255), (a_mask() > 0).astype(np.uint8))
    mask[20:22] = 7
    image = Image.fromarray(palette[mask]) if form == "colours" else Image.fromarray(mask)
    if form == "palette":
        image.putpalette(palette.tobytes())
    save(tmp_path / "SegmentationClass" / NAME, image)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    source = open_cvat_masks(tmp_path)
    np.testing.assert_array_equal(drawn(source, dataset, {"mug": 1, "unlabelled": 255, "a:b": 7}), mask)


@pytest.mark.parametrize(
    "line", ["mug", "mug:1,2", "mug:1,2,x::", "mug:1,2,256::", ":1,2,3::", "mug:0,0,0::", "mug::::"]
)
def test_a_wrong_line_of_labelmap_is_refused(line: str, tmp_path: Path) -> None:
    save(tmp_path / "SegmentationClass" / NAME, Image.fromarray(a_mask()))
    (tmp_path / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(DatasetError, match=r"labelmap.txt line 2: expected "):
        open_cvat_masks(tmp_path)


def test_a_folder_of_cvat_needs_its_parts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected SegmentationClass"):
        open_cvat_masks(tmp_path)
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(DatasetError, match=r"labelmap.txt cannot be read"):
        open_cvat_masks(tmp_path)


INFO = "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t2\twall\n2\t0.1\t1\t2\tmug, cup\n"


@pytest.mark.parametrize(("file", "text"), [("objectInfo150.txt", INFO), ("classes.txt", "wall\nmug\n")])
def test_ids_of_ade_have_the_first_of_their_names(file: str, text: str, dataset: Dataset, tmp_path: Path) -> None:
    mask = np.minimum(a_mask() % 255, 2).astype(np.uint8)
    save(tmp_path / "annotations" / "training" / NAME, Image.fromarray(mask))
    (tmp_path / file).write_text(text)
    source = open_ade(tmp_path)
    found = drawn(source, dataset, {"wall": 1, "mug": 2, "unlabelled": 0}, f"training/{NAME}")
    np.testing.assert_array_equal(found, mask)
    assert "unlabelled" in source.labels(f"training/{NAME}")


@pytest.mark.parametrize("text", ["Idx\tName\nx\twall", "Idx\tName\n0\twall", "a\n" * 255, "Idx\tName\n1\t"])
def test_wrong_names_of_ade_are_refused(text: str, tmp_path: Path) -> None:
    save(tmp_path / "annotations" / NAME, Image.fromarray(a_mask()))
    (tmp_path / "objectInfo150.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"objectInfo150.txt: expected"):
        open_ade(tmp_path)


def test_a_folder_of_ade_needs_its_parts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected the folder annotations"):
        open_ade(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DatasetError, match=r"expected the names in objectInfo150.txt or classes.txt"):
        open_ade(tmp_path)
