"""The format of masks is found out by the files, or refused with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.teacher_frames import CLASSES
from PIL import Image

from deal_core.errors import DatasetError, UsageError
from deal_core.label_tools.flat_masks import FlatSource
from deal_core.label_tools.open import open_masks

COCO = '{"images": [], "annotations": [], "categories": []}'


def png(folder: Path) -> None:
    folder.mkdir(parents=True)
    Image.new("L", (8, 6)).save(folder / "a.png")


def coco(folder: Path) -> None:
    (folder / "instances.json").write_text(COCO)


def coco_in_folder(folder: Path) -> None:
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_default.json").write_text(COCO)
    (folder / "annotations" / "labels_default.json").write_text("{}")


def label_studio(folder: Path) -> None:
    (folder / "project.json").write_text('\n [{"data": {"image": "a.png"}, "annotations": [{"result": []}]}]')


def cvat(folder: Path) -> None:
    (folder / "annotations.xml").write_text("<annotations><image name='a.png'/></annotations>")


def cvat_masks(folder: Path) -> None:
    png(folder / "SegmentationClass")
    (folder / "labelmap.txt").write_text("mug:1,2,3::")


def yolo(folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [mug]")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("")


def ade(folder: Path) -> None:
    png(folder / "annotations" / "validation")
    (folder / "objectInfo150.txt").write_text("Idx\tName\n1\tmug\n")


MAKERS: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "coco in a folder": coco_in_folder,
    "label-studio": label_studio,
    "cvat": cvat,
    "cvat-masks": cvat_masks,
    "yolo": yolo,
    "ade": ade,
    "png": lambda folder: png(folder / "hall"),
}
IMAGES = {"yolo": ["a"], "ade": ["validation/a.png"], "png": ["hall/a.png"], "coco": [], "coco in a folder": []}


@pytest.mark.parametrize("form", MAKERS)
def test_the_format_is_found_out(form: str, tmp_path: Path) -> None:
    MAKERS[form](tmp_path)
    source = open_masks(tmp_path, "auto", CLASSES)
    assert list(source.images) == IMAGES.get(form, ["a.png"])
    assert isinstance(source, FlatSource) == (form in ("png", "ade", "cvat-masks"))


def test_what_cannot_be_found_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found nothing"):
        open_masks(tmp_path / "none", "auto", CLASSES)
    (tmp_path / "a.zip").touch()
    with pytest.raises(DatasetError, match="unpack it first"):
        open_masks(tmp_path / "a.zip", "auto", CLASSES)
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match="name it with --format"):
        open_masks(tmp_path / "a.txt", "auto", CLASSES)
    with pytest.raises(DatasetError, match="expected a folder for the format yolo"):
        open_masks(tmp_path / "a.txt", "yolo", CLASSES)
    coco(tmp_path)
    cvat(tmp_path)
    with pytest.raises(UsageError, match=r"contains annotations.xml and instances.json: name one of them"):
        open_masks(tmp_path, "auto", CLASSES)
    assert list(open_masks(tmp_path, "cvat", CLASSES).images) == ["a.png"]
    with pytest.raises(UsageError, match="--predictions is for label-studio"):
        open_masks(tmp_path, "cvat", CLASSES, predictions=True)
    (tmp_path / "other.json").write_text(COCO)
    with pytest.raises(DatasetError, match=r"expected one .json file in the folder, found 2"):
        open_masks(tmp_path, "coco", CLASSES)
