"""PASCAL VOC 2012 in its official layout, with SBD's additional masks if present.

In VOCdevkit/VOC2012:

    JPEGImages/<image>.jpg
    Annotations/<image>.xml             the objects, from which tags are taken
    SegmentationClass/<image>.png       palette PNG: 0 background, 1 to 20, 255 unlabelled
    SegmentationClassAug/<image>.png    the same for SBD's images, used by train_aug
    ImageSets/Segmentation/<split>.txt
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from deal_core.dataset.dataset import Dataset, FrameLoader, FrameRecord
from deal_core.dataset.image_files import (
    SUFFIXES,
    ImageFinder,
    check_ids,
    first_few,
    inside,
    read_ids,
    refuse_outside,
    require_files,
)
from deal_core.errors import DatasetError, UsageError, nearest_hint
from deal_core.files import read_lines
from deal_core.limits import read_bytes, refuse_over
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList, TagMarker, TagState, UInt8Array

VOC_CLASSES = ClassList(
    (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
        *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
)
"""The 20 classes in the order of their ids in masks."""

_LISTS = {"train": ("train",), "val": ("val",), "trainval": ("trainval",), "train_aug": ("train_aug", "trainaug")}
_ADVICE = "unpack the VOC archive again"


def open_voc(path: Path | str, split: str = "") -> Dataset:
    """Read the lists and tags of VOC 2012.

    Tags are the classes of the objects in an image's XML, including difficult ones, as in the tag lists that WSSS
    methods share; without an XML file, the classes of its mask. The split train_aug (10,582 images)
    needs a list, train_aug.txt or trainaug.txt, in ImageSets/Segmentation or the VOC2012 folder, and uses the masks in
    SegmentationClassAug.

    Args:
        path: folder VOC2012, VOCdevkit, or the folder above it.
        split: train, val, trainval or train_aug; train_aug if empty.

    Raises:
        DatasetError: files are missing; the message counts them and names the first.
        UsageError: the split is unknown.
    """
    split = split or "train_aug"
    if split not in _LISTS:
        raise UsageError(
            f"VOC has no split '{split}': expected one of {', '.join(_LISTS)}.{nearest_hint(split, _LISTS)}"
        )
    root = _find_root(Path(path))
    names = _read_list(root, split)
    masks = root / ("SegmentationClassAug" if split == "train_aug" else "SegmentationClass")
    finder = ImageFinder()
    frames = [_voc_frame(root, masks, name, finder) for name in names]
    require_files([frame.color for frame in frames], root, f"images of the split {split}", _ADVICE)
    unknown = [frame.name for frame in frames if frame.mask is None and not _xml(root, frame.name).is_file()]
    if unknown:
        raise DatasetError(
            f"{root}: {len(unknown)} of {len(frames)} images of the split {split} have no tags: expected "
            f"Annotations/<image>.xml or {masks.name}/<image>.png, found neither for {first_few(unknown)}"
        )
    tagged = [replace(frame, tags=_read_tags(root, frame)) for frame in frames]
    without = sum(frame.mask is None for frame in tagged)
    notes = [f"{without} of {len(tagged)} images have no mask in {masks.name}"] if without else []
    return Dataset(root, VOC_CLASSES, tagged, VocLoader(), notes=notes)


@dataclass(frozen=True)
class VocLoader(FrameLoader):
    """Reads JPEG images and palette masks."""

    advice = _ADVICE

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, or None without a mask."""
        return None if frame.mask is None else read_ids(frame.mask, _ADVICE)


def _find_root(path: Path) -> Path:
    for root in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if (root / "JPEGImages").is_dir():
            return root
    raise DatasetError(
        f"{path} is not a VOC 2012 dataset: expected JPEGImages, Annotations, SegmentationClass and "
        "ImageSets/Segmentation in it, in VOC2012 or in VOCdevkit/VOC2012"
    )


def _read_list(root: Path, split: str) -> list[str]:
    folders = (root / "ImageSets" / "Segmentation", root)
    files = [folder / f"{name}.txt" for folder in folders for name in _LISTS[split]]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        source = "SBD's list, which is not in the VOC archive" if split == "train_aug" else "the VOC archive"
        raise DatasetError(f"{root} has no list of the split {split}: expected {files[0]}, from {source}")
    try:
        lines = read_lines(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    names = []
    for line in lines:
        if line.strip():
            names.append(_image_name(line.strip()))
            refuse_over("listed_images", len(names), "images", lambda sentence: DatasetError(f"{file}: {sentence}"))
    if not names:
        raise DatasetError(f"{file} is empty, expected names of images: {_ADVICE}")
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DatasetError(f"{file} names {len(repeated)} images twice: {first_few(repeated)}")
    return names


def _image_name(line: str) -> str:
    """Return the path of an image in JPEGImages without its suffix, from a line of a list.

    The line is that name, or a path with its suffix; some lists have the path of the mask behind it.
    """
    first = PurePosixPath(line.split()[0])
    path = first if first.suffix.lower() in SUFFIXES else PurePosixPath(line)
    parts = path.parts[path.parts.index("JPEGImages") + 1 :] if "JPEGImages" in path.parts else path.parts
    name = PurePosixPath(*parts)
    return str(name.with_suffix("") if name.suffix.lower() in SUFFIXES else name)


def _voc_frame(root: Path, masks: Path, name: str, finder: ImageFinder) -> FrameRecord:
    mask = inside(masks, f"{name}.png")
    return FrameRecord(
        recording="VOC2012",
        stamp_ns=0,
        color=finder.find(inside(root / "JPEGImages", name), ".jpg"),
        depth=None,
        mask=mask if mask.is_file() else None,
        tags=TagState(),
        # Each image is a scene. Its name as a number does not change when other images are added.
        segment=int.from_bytes(name.encode(), "big"),
        name=name,
    )


def _xml(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def _read_tags(root: Path, frame: FrameRecord) -> TagState:
    file = _xml(root, frame.name)
    refuse_outside(root, file)
    if not file.is_file():
        assert frame.mask is not None  # images with neither were refused
        return _tags_of_mask(frame.mask)
    try:
        text = read_bytes(file, "description_bytes")
        objects = ElementTree.fromstring(text).findall("object")  # expat bounds entities  # nosec B314
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        raise DatasetError(f"{file} cannot be read ({error}): {_ADVICE}") from None
    present = {(entry.findtext("name") or "").strip() for entry in objects}
    wrong = sorted(present - set(VOC_CLASSES.names))
    if wrong:
        raise DatasetError(f"{file} names '{wrong[0]}', expected one of {', '.join(VOC_CLASSES.names)}")
    return TagState(tuple(present), marker=TagMarker.COMPLETE)


def _tags_of_mask(file: Path) -> TagState:
    mask = read_ids(file, _ADVICE)
    check_ids(file, mask, VOC_CLASSES)
    ids = set(np.unique(mask).tolist()) - {BACKGROUND, UNLABELLED}
    return TagState(tuple(VOC_CLASSES.names[i - 1] for i in ids), marker=TagMarker.COMPLETE)
