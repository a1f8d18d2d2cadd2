"""Exported masks: other tools read every pixel, and what they give back comes in bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from helpers.teacher_frames import CLASSES, drawn, mask_folder, masks_in, odd_masks, parse

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.choices import ExportFormat
from deal_core.label_tools.exporting import export_masks
from deal_core.label_tools.importing import ImportSettings, import_masks
from deal_core.label_tools.open import open_masks

FORMATS = get_args(ExportFormat)
AS_THEY_ARE = ImportSettings(veto=False)


@pytest.fixture(scope="module")
def masks(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mask_folder(tmp_path_factory.mktemp("masks") / "masks", dataset, odd_masks(dataset))


def keys(dataset: Dataset) -> list[str]:
    return [frame.key for frame in dataset.frames]


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        np.testing.assert_array_equal(found[key], mask, key)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_comes_back_bit_by_bit(
    form: ExportFormat, dataset: Dataset, masks: Path, tmp_path: Path
) -> None:
    made = export_masks(masks, dataset, form, tmp_path / "out", keys(dataset))
    source = open_masks(made, "auto", CLASSES, predictions=form == "label-studio")
    summary = import_masks(source, dataset, tmp_path / "back", AS_THEY_ARE)
    assert (summary.frames, summary.without, summary.strangers, summary.notes) == (6, 0, (), ())
    assert_same(masks_in(tmp_path / "back", dataset), odd_masks(dataset))


@pytest.mark.parametrize("form", FORMATS)
def test_the_images_lie_beside_the_masks_under_the_names_of_their_frames(
    form: ExportFormat, dataset: Dataset, masks: Path, tmp_path: Path
) -> None:
    chosen = keys(dataset)[1:3]
    export_masks(masks, dataset, form, tmp_path / "out", chosen)
    for key in chosen:
        image = cv2.imread(str(tmp_path / "out" / "images" / f"{key}.png"))
        frame = next(frame for frame in dataset.frames if frame.key == key)
        np.testing.assert_array_equal(image[..., ::-1], dataset.load_image(frame))
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 2
    export_masks(masks, dataset, form, tmp_path / "bare", chosen, images=False)
    assert not (tmp_path / "bare" / "images").exists()


def test_an_export_replaces_nothing_and_needs_the_masks(dataset: Dataset, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"masks exists: masks are exported to a new folder"):
        export_masks(masks, dataset, "png", masks, keys(dataset))
    few = mask_folder(tmp_path / "few", dataset, {keys(dataset)[0]: drawn(dataset)[keys(dataset)[0]]})
    with pytest.raises(DatasetError, match=r"lacks the masks of 5 of 6 frames"):
        export_masks(few, dataset, "png", tmp_path / "out", keys(dataset))
    assert not (tmp_path / "out").exists()


# --- the tools' own parsers

DATUMARO = """
import json, sys
import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset

read = Dataset.import_from(sys.argv[2], sys.argv[1])
names = [label.name for label in read.categories()[AnnotationType.label]]
masks = {}
for item in read:
    for found in item.annotations:
        if found.type == AnnotationType.mask:
            name = names[found.label]
            covered = masks.setdefault(item.id, {}).setdefault(name, np.zeros(np.shape(found.image), bool))
            covered |= np.asarray(found.image, bool)
pixels = {i: {n: np.flatnonzero(m).tolist() for n, m in each.items()} for i, each in masks.items()}
print(json.dumps([names, [item.id for item in read], pixels]))
"""


def by_name(mask: np.ndarray) -> dict[str, list[int]]:
    """The places of the pixels of each class and of the unlabelled ones."""
    names = {**dict(enumerate(CLASSES.names, 1)), 255: "unlabelled"}
    return {names[i]: np.flatnonzero(mask == i).tolist() for i in np.unique(mask).tolist() if i}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "theirs", "place"), [("cvat", "cvat", "annotations.xml"), ("coco", "coco", "")])
def test_datumaro_reads_every_pixel(
    form: ExportFormat, theirs: str, place: str, dataset: Dataset, masks: Path, tmp_path: Path
) -> None:
    export_masks(masks, dataset, form, tmp_path / "out", keys(dataset))
    names, items, pixels = parse(DATUMARO, theirs, tmp_path / "out" / place)
    assert names == [*CLASSES.names, "unlabelled"] and sorted(items) == keys(dataset)
    assert pixels == {key: by_name(mask) for key, mask in odd_masks(dataset).items() if mask.any()}


def test_pycocotools_reads_every_pixel(dataset: Dataset, masks: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(export_masks(masks, dataset, "coco", tmp_path / "out", keys(dataset))))
    found: dict[str, np.ndarray] = {}
    for number, image in coco.imgs.items():
        mask = found[image["file_name"].removesuffix(".png")] = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[number]:
            covered = coco.annToMask(annotation).astype(bool)
            left, top, width, height = annotation["bbox"]
            rows, columns = np.nonzero(covered)
            assert (left, top) == (columns.min(), rows.min()) and annotation["area"] == covered.sum()
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            mask[covered] = {4: 255}.get(annotation["category_id"], annotation["category_id"])
    assert_same(found, odd_masks(dataset))


LABEL_STUDIO = """
import json, sys
from pathlib import Path
import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface

folder = Path(sys.argv[1])
config = (folder / "label_config.xml").read_text()
tasks = json.loads((folder / "tasks.json").read_text())
interface = LabelInterface(config)
for number, task in enumerate(tasks):
    assert interface.validate_prediction(task["predictions"][0])
    task.update(id=number, annotations=[{"id": number, "completed_by": 1, "result": task["predictions"][0]["result"]}])
(folder / "submitted.json").write_text(json.dumps(tasks))
pixels = {}
converter = Converter(config, str(folder), download_resources=False)
for item in converter.iter_from_json_file(str(folder / "submitted.json")):
    masks = pixels[item["input"]["frame"]] = {}
    for result in item["output"].get("brush", []):
        shape = result["original_height"], result["original_width"], 4
        covered = np.reshape(decode_rle(result["rle"]), shape)[..., 3] > 0
        (name,) = result["brushlabels"]
        masks[name] = sorted([*masks.get(name, []), *np.flatnonzero(covered).tolist()])
print(json.dumps(pixels))
"""


@pytest.mark.slow
def test_the_sdk_of_label_studio_reads_every_pixel(dataset: Dataset, masks: Path, tmp_path: Path) -> None:
    export_masks(masks, dataset, "label-studio", tmp_path / "out", keys(dataset))
    pixels = parse(LABEL_STUDIO, tmp_path / "out")
    assert pixels == {key: by_name(mask) for key, mask in odd_masks(dataset).items()}


WRITTEN_BY_DATUMARO = """
import json, sys
from datumaro.components.dataset import Dataset

options = {"label_map": sys.argv[4]} if sys.argv[3].startswith("voc") else {}
Dataset.import_from(sys.argv[1], "cvat").export(sys.argv[2], sys.argv[3], **options)
print("null")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), [("cvat", "cvat"), ("coco", "coco"), ("voc_segmentation", "cvat-masks")])
def test_what_datumaro_writes_comes_in_bit_by_bit(
    theirs: str, ours: Any, dataset: Dataset, masks: Path, tmp_path: Path
) -> None:
    export_masks(masks, dataset, "cvat", tmp_path / "out", keys(dataset))
    colors = {"background": "0,0,0", "mug": "250,50,83", "jar": "0,0,1", "box": "1,0,0", "unlabelled": "255,255,255"}
    (tmp_path / "labelmap.txt").write_text("".join(f"{name}:{color}::\n" for name, color in colors.items()))
    files = tmp_path / "out" / "annotations.xml", tmp_path / "theirs", theirs, tmp_path / "labelmap.txt"
    parse(WRITTEN_BY_DATUMARO, *files)
    import_masks(open_masks(tmp_path / "theirs", ours, CLASSES), dataset, tmp_path / "back", AS_THEY_ARE)
    expected = odd_masks(dataset)
    if theirs == "voc_segmentation":  # it has no mask for an image without objects
        expected.pop(keys(dataset)[0], None)
    assert_same(masks_in(tmp_path / "back", dataset), expected)


def test_tasks_of_label_studio_are_predictions_until_a_person_submits_them(
    dataset: Dataset, masks: Path, tmp_path: Path
) -> None:
    file = export_masks(masks, dataset, "label-studio", tmp_path / "out", keys(dataset))
    tasks = json.loads(file.read_text())
    tasks[1]["annotations"] = [{"result": tasks[1]["predictions"][0]["result"], "was_cancelled": False}]
    file.write_text(json.dumps(tasks))
    source = open_masks(file, "label-studio", CLASSES)
    assert source.images == [keys(dataset)[1]] and "5 tasks have no annotation" in source.notes[0]
