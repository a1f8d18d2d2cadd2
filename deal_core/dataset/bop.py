"""Datasets in the layout of the BOP benchmark, HOPE's static onboarding among them.

    <split>/<sequence>/rgb/NNNNNN.png         or .jpg, .tif; or gray/ of a camera without colour
    <split>/<sequence>/depth/NNNNNN.png       16 bit; multiplied by depth_scale: millimetres
    <split>/<sequence>/mask_visib/NNNNNN_MMMMMM.png   the visible part of the M-th object of image N
    <split>/<sequence>/scene_camera.json      depth_scale of each image
    <split>/<sequence>/scene_gt.json          obj_id of each object in each image
    <split>/<sequence>/scene_gt_info.json     visib_fract of each
    models/models_info.json                   the objects, if the models are present

HOPE's onboarding_static has two sequences for each object, obj_NNNNNN_up and obj_NNNNNN_down, with the object upright
and upside down. The splits `onboarding_static:up` and `onboarding_static:down` train on one and evaluate on the other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.dataset.dataset import Dataset, FrameLoader, FrameRecord
from deal_core.dataset.image_files import ImageFinder, check_image, read_image, refuse_outside, require_files
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import ClassList, Float32Array, TagMarker, TagState, UInt8Array
from deal_core.text_formats import read_json

HOPE_NAMES = (
    *("AlphabetSoup", "BBQSauce", "Butter", "Cherries", "ChocolatePudding", "Cookies", "Corn", "CreamCheese"),
    *("GranolaBars", "GreenBeans", "Ketchup", "MacaroniAndCheese", "Mayo", "Milk", "Mushrooms", "Mustard"),
    *("OrangeJuice", "Parmesan", "Peaches", "PeasAndCarrots", "Pineapple", "Popcorn", "Raisins", "SaladDressing"),
    *("Spaghetti", "TomatoSauce", "Tuna", "Yogurt"),
)
"""HOPE's 28 objects in the order of their ids."""
MIN_VISIBLE = 0.1
"""Smallest visible share of a tagged object, as in BOP's evaluation."""

_ADVICE = "unpack the archive again"


def open_bop(path: Path | str, split: str = "") -> Dataset:
    """Read the lists and tags of a BOP split; each sequence is a recording and a segment.

    An object's class is its id; it is tagged if at least a tenth of it is visible. The classes are the objects of
    models_info.json, or of the split if that file is missing; a folder called `hope` has HOPE's 28 objects.

    Args:
        path: folder of the dataset, as in `hope`.
        split: folder of the sequences, `onboarding_static` if empty; `folder:side` selects the sequences whose names
            end in `_side`.

    Raises:
        DatasetError: files are missing or contradict each other; the message counts them and names the first.
        UsageError: the split does not exist.
    """
    root = Path(path)
    sequences = _sequences(root, split or "onboarding_static")
    listed = [entry for sequence in sequences for entry in _read_sequence(sequence)]
    if not listed:
        raise DatasetError(f"{sequences[0].parent} contains no image that scene_gt.json lists")
    classes = _bop_classes(root, {thing.object_id for _, objects, _ in listed for thing in objects})
    require_files([frame.color for frame, *_ in listed], root, "images", _ADVICE)
    require_files([frame.depth for frame, *_ in listed if frame.depth], root, "depth images", _ADVICE)
    masks = [thing.mask for frame, objects, _ in listed if frame.mask for thing in objects]
    require_files(masks, root, "masks", _ADVICE)
    frames = [replace(frame, tags=_visible_tags(objects, classes)) for frame, objects, _ in listed]
    loader = BopLoader({frame.key: (objects, scale) for frame, objects, scale in listed})
    return Dataset(root, classes, frames, loader)


def missing_hope_sequences(present: Collection[str], split: str = "") -> list[str]:
    """Return the missing ones of the 56 sequences of HOPE's static onboarding; none for other splits."""
    folder, _, side = (split or "onboarding_static").partition(":")
    if folder != "onboarding_static":
        return []
    sides = [side] if side else ["up", "down"]
    expected = [f"obj_{i:06d}_{s}" for i in range(1, len(HOPE_NAMES) + 1) for s in sides]
    return [name for name in expected if name not in present]


@dataclass(frozen=True)
class BopObject:
    """An object in an image.

    Args:
        object_id: id of its class in masks.
        visible: visible share, 0 to 1.
        mask: mask file of the visible part.
    """

    object_id: int
    visible: float
    mask: Path


@dataclass(frozen=True)
class BopLoader(FrameLoader):
    """Reads images and depth, and joins the masks of objects.

    Args:
        images: objects and depth scale (millimetres per count) by frame key.
    """

    images: Mapping[str, tuple[Sequence[BopObject], float]] = field(repr=False)
    advice = _ADVICE

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return (H, W) metres, 0 where invalid; None without depth images."""
        if frame.depth is None:
            return None
        counts = read_image(frame.depth, "depth image", _ADVICE)
        check_image(frame.depth, "depth", counts, np.uint16, size)
        return counts.astype(np.float32) * np.float32(self.images[frame.key][1] / 1000.0)

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) object ids; visible parts do not overlap."""
        if frame.mask is None:
            return None
        mask = np.zeros(size, np.uint8)
        for thing in self.images[frame.key][0]:
            refuse_outside(frame.mask, thing.mask)
            covered = read_image(thing.mask, "mask", _ADVICE)
            check_image(thing.mask, "mask", covered, np.uint8, size)
            mask[covered > 0] = thing.object_id
        return mask


def _sequences(root: Path, split: str) -> list[Path]:
    name, _, side = split.partition(":")
    folder = root / name
    if not name or "/" in name or name.startswith(".") or not folder.is_dir():
        found = sorted({file.parents[1].name for file in root.glob("*/*/scene_gt.json")})
        if not found:
            raise DatasetError(
                f"{root} is not a BOP dataset: expected <split>/<sequence>/scene_gt.json in it, as {folder}/…"
            )
        raise UsageError(f"{root} has no split '{name}': expected one of {', '.join(found)}")
    sequences = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    chosen = [entry for entry in sequences if not side or entry.name.endswith(f"_{side}")]
    if not chosen:
        of_side = f" whose name ends in _{side}" if side else ""
        raise DatasetError(f"{folder} contains no sequence{of_side}: {_ADVICE}")
    return chosen


def _read_sequence(folder: Path) -> Iterator[tuple[FrameRecord, tuple[BopObject, ...], float]]:
    """Yield the frames of a sequence, still without tags, with their objects and depth scales."""
    truth = _read_json(folder / "scene_gt.json")
    info = _read_json(folder / "scene_gt_info.json")
    cameras = _read_json(folder / "scene_camera.json")
    colors = next((f for f in (folder / "rgb", folder / "gray") if f.is_dir()), None)
    if colors is None:
        raise DatasetError(f"{folder} has no images: expected a folder rgb or gray; {_ADVICE}")
    depths, masks = folder / "depth", folder / "mask_visib"
    has_depth, has_masks = depths.is_dir(), masks.is_dir()
    finder = ImageFinder()
    for key, entries in truth.items():
        file = folder / "scene_gt.json"
        try:
            number = int(key)
            objects = tuple(
                BopObject(
                    int(entry["obj_id"]),
                    float(seen["visib_fract"]),
                    finder.find(masks / f"{number:06d}_{place:06d}", ".png"),
                )
                for place, (entry, seen) in enumerate(zip(entries, info[key], strict=True))
            )
            file = folder / "scene_camera.json"
            scale = float(cameras[key]["depth_scale"]) if has_depth else 1.0
            if not (math.isfinite(scale) and all(math.isfinite(thing.visible) for thing in objects)):
                raise ValueError("a number that is not finite")
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
            raise DatasetError(
                f"{file}: image {key[:80]} is wrong, or missing in scene_gt_info.json or scene_camera.json "
                f"({repr(error)[:200]})"
            ) from None
        name = f"{number:06d}"
        frame = FrameRecord(
            recording=folder.name,
            stamp_ns=number,
            color=finder.find(colors / name, ".png"),
            depth=finder.find(depths / name, ".png") if has_depth else None,
            mask=masks if has_masks else None,
            tags=TagState(),
            segment=0,
            name=name,
        )
        yield frame, objects, scale


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise DatasetError(
            f"{file.parent} has no {file.name}: {_ADVICE}, or choose a split that was published with its ground truth"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): {_ADVICE}") from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"{file}: expected a JSON object with an entry for each image, found {type(content).__name__}"
        )
    return content


def _bop_classes(root: Path, seen: set[int]) -> ClassList:
    if root.resolve().name == "hope":
        names: Sequence[str] = HOPE_NAMES
        source = "HOPE"
    else:
        files = [root / folder / "models_info.json" for folder in ("models", "models_eval")]
        file = next((f for f in files if f.is_file()), None)
        source = str(file or "the split")
        try:
            ids = {int(key) for key in _read_json(file)} if file else seen
        except ValueError as error:
            raise DatasetError(f"{file}: expected object ids as keys ({error})") from None
        names = tuple(f"obj_{i:06d}" for i in range(1, max(ids, default=0) + 1))
    unknown = sorted(i for i in seen if not 1 <= i <= len(names))
    if unknown:
        raise DatasetError(
            f"{root}: a scene_gt.json names object {unknown[0]}, expected 1 to {len(names)}, the objects of {source}"
        )
    return ClassList(tuple(names))


def _visible_tags(objects: Sequence[BopObject], classes: ClassList) -> TagState:
    visible = {thing.object_id for thing in objects if thing.visible >= MIN_VISIBLE}
    return TagState(tuple(classes.names[i - 1] for i in visible), marker=TagMarker.COMPLETE)
