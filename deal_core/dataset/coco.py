"""MS COCO 2014 in its official layout; masks are drawn from the annotations.

    annotations/instances_<split>.json
    <split>/<image>.jpg  or  images/<split>/<image>.jpg
    masks/<split>/<image>.png     optional masks, read instead of drawing the annotations

The category ids run from 1 to 90, and ten of them never occur. Masks and class lists follow one of two conventions:
`contiguous` numbers the 80 categories from 1 to 80; `category` keeps the ids and has 90 classes, ten of them unused.
Masks of one convention cannot be read with the other.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.dataset.choices import ClassIds
from deal_core.dataset.dataset import Dataset, FrameLoader, FrameRecord
from deal_core.dataset.image_files import first_few, inside, require_files
from deal_core.dataset.voc import read_palette_mask
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList, TagMarker, TagState, UInt8Array

_ADVICE = "unpack the COCO archives again"


def open_coco(path: Path | str, split: str = "", class_ids: ClassIds = "contiguous") -> Dataset:
    """Read the lists and tags of COCO, or of another dataset in its format.

    Tags are the categories of an image's annotations, including crowds. Images without annotations (702 of train2014,
    367 of val2014) are left out, as usual; the dataset's notes count them.

    Args:
        path: folder with annotations and images.
        split: train2014, val2014, or another with an instances_<split>.json; train2014 if empty.
        class_ids: contiguous numbers the categories from 1 without gaps, in the order of their ids; category keeps
            the ids, and fills each gap with a class `unused <id>`.

    Raises:
        DatasetError: files are missing, or the annotations are not in COCO's format; the message names the place.
        UsageError: the split has no annotations.
    """
    root, split = Path(path), split or "train2014"
    file = _annotation_file(root, split)
    content = _read_annotations(file)
    classes, mask_ids = _coco_classes(file, content["categories"], class_ids)
    annotations: defaultdict[int, list[_Annotation]] = defaultdict(list)
    for entry in content["annotations"]:
        image, annotation = _annotation(file, entry, mask_ids)
        annotations[image].append(annotation)
    folder = _image_folder(root, split)
    masks = root / "masks" / split
    mask_folder = masks if masks.is_dir() else None
    frames = [
        _coco_frame(file, folder, mask_folder, split, image, annotations.pop(image["id"]), classes)
        for image in content["images"]
        if image["id"] in annotations
    ]
    if annotations:
        orphans = [str(image) for image in annotations]
        raise DatasetError(f"{file}: annotations have {len(orphans)} image ids without an image: {first_few(orphans)}")
    if not frames:
        raise DatasetError(f"{file} contains no image with annotations")
    require_files([frame.color for frame, _ in frames], folder, "images", _ADVICE)
    without = len(content["images"]) - len(frames)
    notes = [f"{without} of {len(content['images'])} images have no annotation and are left out"] if without else []
    if mask_folder:
        notes.append(f"masks are read from {masks}, not drawn from the annotations")
    return Dataset(root, classes, [frame for frame, _ in frames], CocoLoader(_packed(frames)), notes=notes)


@dataclass(frozen=True)
class CocoLoader(FrameLoader):
    """Reads images, and reads or draws masks.

    Args:
        annotations: packed annotations by frame name; as Python objects, COCO's would fill 2 GB.
    """

    annotations: Mapping[str, bytes] = field(repr=False)
    advice = _ADVICE

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, read from a mask file if there is one, else drawn."""
        assert frame.mask is not None  # each frame has annotations
        annotations = _unpack(self.annotations[frame.name])
        if frame.mask.suffix == ".json":
            return draw_mask(frame, annotations, size)
        mask = read_palette_mask(frame.mask)
        known = [BACKGROUND, UNLABELLED, *(a.mask_id for a in annotations)]
        wrong = [i for i in np.unique(mask).tolist() if i not in known]
        if wrong:
            raise DatasetError(
                f"mask {frame.mask} contains id {wrong[0]}, which no annotation of the image has: its ids may follow "
                "the other convention; choose it with class_ids (contiguous or category)"
            )
        return mask


@dataclass(frozen=True)
class _Annotation:
    mask_id: int
    segmentation: Any


def draw_mask(frame: FrameRecord, annotations: Sequence[_Annotation], size: tuple[int, int]) -> UInt8Array:
    """Return the (H, W) ids of an image's annotations.

    Objects with fewer pixels cover larger ones, and the later of two equal ones covers the other. A crowd counts as an
    object of its category. Pixels without an annotation are background.

    Raises:
        DatasetError: a segmentation is neither polygons nor run lengths, or has another size.
    """
    drawn = [(annotation.mask_id, _decode(frame, annotation.segmentation, size)) for annotation in annotations]
    mask = np.zeros(size, np.uint8)
    for mask_id, covered in sorted(drawn, key=lambda pair: -int(pair[1].sum())):
        mask[covered] = mask_id
    return mask


def _decode(frame: FrameRecord, segmentation: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    from pycocotools import mask as coder

    height, width = size
    if isinstance(segmentation, dict) and list(segmentation.get("size", size)) != [height, width]:
        raise DatasetError(
            f"{frame.mask}: an annotation of image {frame.name} has size {segmentation['size']}, "
            f"expected the image's size {[height, width]}"
        )
    try:
        compressed = isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
        coded = segmentation if compressed else coder.frPyObjects(segmentation, height, width)
        pixels = coder.decode(coder.merge(coded) if isinstance(coded, list) else coded)
    except Exception as error:  # pycocotools raises many kinds, also plain Exception
        raise DatasetError(
            f"{frame.mask}: an annotation of image {frame.name} is neither polygons nor run lengths ({error})"
        ) from None
    return np.asarray(pixels, np.bool_)


def _annotation_file(root: Path, split: str) -> Path:
    folder = root / "annotations"
    file = folder / f"instances_{split}.json"
    if file.is_file():
        return file
    known = sorted(f.stem.removeprefix("instances_") for f in folder.glob("instances_*.json"))
    if not known:
        raise DatasetError(f"{root} is not a COCO dataset: expected {file}; unpack COCO's annotations there")
    raise UsageError(f"{root} has no split '{split}': expected {file}; found annotations of {', '.join(known)}")


def _read_annotations(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): {_ADVICE}") from None
    keys = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id", "segmentation")}
    for name, needed in {**keys, "categories": ("id", "name")}.items():
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DatasetError(f"{file} is not COCO: expected lists images, annotations, categories, {name} is missing")
        for number, entry in enumerate(entries):
            missing = [key for key in needed if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise DatasetError(f"{file} is not COCO: entry {number} of {name} has no {missing[0]}")
    return dict(content)


def _coco_classes(
    file: Path, categories: Sequence[Mapping[str, Any]], class_ids: ClassIds
) -> tuple[ClassList, dict[int, int]]:
    """Return the classes, and the mask id of each category id."""
    names = {entry["id"]: entry["name"] for entry in categories}
    if not names or any(type(i) is not int or i < 1 for i in names) or len(names) < len(categories):
        raise DatasetError(
            f"{file}: expected categories with unique ids of at least 1, found {sorted(map(str, names))}"
        )
    ids = sorted(names)
    try:
        if class_ids == "contiguous":
            return ClassList(tuple(names[i] for i in ids)), {i: place for place, i in enumerate(ids, 1)}
        every = range(1, ids[-1] + 1)
        return ClassList(tuple(names.get(i, f"unused {i}") for i in every)), {i: i for i in ids}
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None


def _annotation(file: Path, entry: Mapping[str, Any], mask_ids: Mapping[int, int]) -> tuple[int, _Annotation]:
    category = entry["category_id"]
    if category not in mask_ids:
        raise DatasetError(f"{file}: annotation {entry.get('id')} has the unknown category id {category}")
    return entry["image_id"], _Annotation(mask_ids[category], entry["segmentation"])


def _image_folder(root: Path, split: str) -> Path:
    folders = (root / split, root / "images" / split)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"{root} has no images of {split}: expected the folder {folders[0]} or {folders[1]}")


def _coco_frame(
    file: Path,
    folder: Path,
    masks: Path | None,
    split: str,
    image: Mapping[str, Any],
    annotations: list[_Annotation],
    classes: ClassList,
) -> tuple[FrameRecord, list[_Annotation]]:
    if type(image["id"]) is not int:
        raise DatasetError(f"{file}: expected whole numbers as image ids, found {image['id']!r}")
    try:
        color = inside(folder, image["file_name"])
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    present = {classes.names[annotation.mask_id - 1] for annotation in annotations}
    frame = FrameRecord(
        recording=split,
        stamp_ns=image["id"],
        color=color,
        depth=None,
        mask=masks / f"{color.stem}.png" if masks else file,
        tags=TagState(tuple(present), marker=TagMarker.COMPLETE),
        segment=image["id"],
        name=color.stem,
    )
    return frame, annotations


def _packed(frames: Sequence[tuple[FrameRecord, list[_Annotation]]]) -> dict[str, bytes]:
    return {
        frame.name: zlib.compress(json.dumps([(a.mask_id, a.segmentation) for a in annotations]).encode(), 1)
        for frame, annotations in frames
    }


def _unpack(packed: bytes) -> list[_Annotation]:
    return [_Annotation(mask_id, segmentation) for mask_id, segmentation in json.loads(zlib.decompress(packed))]
