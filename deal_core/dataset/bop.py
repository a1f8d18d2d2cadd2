"""Datasets in the layout of the BOP benchmark, HOPE's static onboarding among them.

    <split>/<sequence>/rgb/NNNNNN.png         or .jpg; or gray/ of a camera without colour
    <split>/<sequence>/depth/NNNNNN.png       16 bit; times depth_scale gives millimetres
    <split>/<sequence>/mask_visib/NNNNNN_MMMMMM.png   the visible part of the M-th object of image N
    <split>/<sequence>/scene_camera.json      depth_scale of each image
    <split>/<sequence>/scene_gt.json          obj_id of each object in each image
    <split>/<sequence>/scene_gt_info.json     visib_fract of each
    models/models_info.json                   the objects, where the models are there

HOPE's onboarding_static has two sequences an object, obj_NNNNNN_up and obj_NNNNNN_down: the object stands on either
side. Take one side to train and the other to evaluate, as splits `onboarding_static:up` and `onboarding_static:down`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.dataset.image_files import check_image, read_color, read_image, require_files
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import ClassList, Float32Array, TagMarker, TagState, UInt8Array

HOPE_NAMES = (
    *("AlphabetSoup", "BBQSauce", "Butter", "Cherries", "ChocolatePudding", "Cookies", "Corn", "CreamCheese"),
    *("GranolaBars", "GreenBeans", "Ketchup", "MacaroniAndCheese", "Mayo", "Milk", "Mushrooms", "Mustard"),
    *("OrangeJuice", "Parmesan", "Peaches", "PeasAndCarrots", "Pineapple", "Popcorn", "Raisins", "SaladDressing"),
    *("Spaghetti", "TomatoSauce", "Tuna", "Yogurt"),
)
"""HOPE's 28 objects in the order of their ids."""
MIN_VISIBLE = 0.1
"""Share of an object that must be visible for it to be tagged, as BOP asks of objects that are evaluated."""

_ADVICE = "unpack the archive again"


def open_bop(path: Path | str, split: str = "") -> Dataset:
    """Read the lists and tags of a BOP split; each sequence is a recording and a segment.

    An object's class is its id; it is tagged where at least a tenth of it is visible. The classes are those of
    models_info.json, or without it the objects of the split; in a folder called `hope`, as BOP calls it, HOPE's 28.

    Args:
        path: the dataset's folder, as `hope`.
        split: folder of the sequences; `folder:side` takes those whose names end in `_side`. onboarding_static
            when left out.

    Raises:
        DatasetError: files are missing or contradict each other; the message counts them and names the first.
        UsageError: no such split.
    """
    root = Path(path)
    sequences = _sequences(root, split or "onboarding_static")
    listed = [entry for sequence in sequences for entry in _read_sequence(sequence)]
    if not listed:
        raise DatasetError(f"{sequences[0].parent} holds no image that scene_gt.json lists")
    classes = _bop_classes(root, {o.object_id for entry in listed for o in entry.objects})
    require_files([entry.color for entry in listed], root, "images", _ADVICE)
    require_files([entry.depth for entry in listed if entry.depth], root, "depth images", _ADVICE)
    require_files([thing.mask for entry in listed if entry.masks for thing in entry.objects], root, "masks", _ADVICE)
    frames = [_bop_frame(entry, classes) for entry in listed]
    loader = BopLoader({f.key: (entry.objects, entry.depth_scale) for f, entry in zip(frames, listed, strict=True)})
    return Dataset(root, classes, frames, loader)


def missing_hope_sequences(present: Collection[str], split: str = "") -> list[str]:
    """Return which of the 56 sequences of HOPE's static onboarding are not present; none for other splits."""
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
        object_id: its class in masks.
        visible: share of it that is visible, 0 to 1.
        mask: file of its visible part.
    """

    object_id: int
    visible: float
    mask: Path


@dataclass(frozen=True)
class BopLoader:
    """Reads images and depth, and puts objects' masks together.

    Args:
        images: objects and depth scale (millimetres a count) by frame key.
    """

    images: Mapping[str, tuple[Sequence[BopObject], float]] = field(repr=False)

    def image(self, frame: FrameRecord) -> UInt8Array:
        """Return (H, W, 3) RGB; grey is repeated."""
        return read_color(frame.color, "image", _ADVICE)

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return (H, W) metres, 0 where invalid; None without depth images."""
        if frame.depth is None:
            return None
        counts = read_image(frame.depth, "depth image", _ADVICE)
        check_image(frame.depth, "depth", counts, np.uint16, size)
        return counts.astype(np.float32) * np.float32(self.images[frame.key][1] / 1000.0)

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) object ids, whatever share of an object is visible; visible parts do not overlap."""
        if frame.mask is None:
            return None
        mask = np.zeros(size, np.uint8)
        for thing in self.images[frame.key][0]:
            covered = read_image(thing.mask, "mask", _ADVICE)
            check_image(thing.mask, "mask", covered, np.uint8, size)
            mask[covered > 0] = thing.object_id
        return mask


@dataclass(frozen=True)
class _Image:
    sequence: str
    number: int
    color: Path
    depth: Path | None
    depth_scale: float
    masks: Path | None
    objects: tuple[BopObject, ...]


def _sequences(root: Path, split: str) -> list[Path]:
    name, _, side = split.partition(":")
    folder = root / name
    if not name or "/" in name or name.startswith(".") or not folder.is_dir():
        found = sorted({file.parents[1].name for file in root.glob("*/*/scene_gt.json")})
        if not found:
            raise DatasetError(
                f"{root} is no BOP dataset: expected <split>/<sequence>/scene_gt.json in it, as {folder}/…"
            )
        raise UsageError(f"{root} has no split '{name}': expected one of {', '.join(found)}")
    sequences = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    chosen = [entry for entry in sequences if not side or entry.name.endswith(f"_{side}")]
    if not chosen:
        of_side = f" whose name ends in _{side}" if side else ""
        raise DatasetError(f"{folder} holds no sequence{of_side}: {_ADVICE}")
    return chosen


def _read_sequence(folder: Path) -> Iterator[_Image]:
    truth = _read_json(folder / "scene_gt.json")
    info = _read_json(folder / "scene_gt_info.json")
    cameras = _read_json(folder / "scene_camera.json")
    colors = next((f for f in (folder / "rgb", folder / "gray") if f.is_dir()), None)
    if colors is None:
        raise DatasetError(f"{folder} has no images: expected a folder rgb or gray; {_ADVICE}")
    suffix = next((file.suffix for file in sorted(colors.iterdir()) if file.suffix in (".png", ".jpg")), ".png")
    depths, masks = folder / "depth", folder / "mask_visib"
    has_depth, has_masks = depths.is_dir(), masks.is_dir()
    for key, entries in truth.items():
        file = folder / "scene_gt.json"
        try:
            number = int(key)
            objects = tuple(
                BopObject(int(entry["obj_id"]), float(seen["visib_fract"]), masks / f"{number:06d}_{place:06d}.png")
                for place, (entry, seen) in enumerate(zip(entries, info[key], strict=True))
            )
            file = folder / "scene_camera.json"
            scale = float(cameras[key]["depth_scale"]) if has_depth else 1.0
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{file}: image {key} is wrong or is not in scene_gt_info.json and scene_camera.json alike ({error!r})"
            ) from None
        yield _Image(
            sequence=folder.name,
            number=number,
            color=colors / f"{number:06d}{suffix}",
            depth=depths / f"{number:06d}.png" if has_depth else None,
            depth_scale=scale,
            masks=masks if has_masks else None,
            objects=objects,
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DatasetError(
            f"{file.parent} has no {file.name}: {_ADVICE}, or choose a split that was published with its ground truth"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): {_ADVICE}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: expected an object with an entry for each image, found {type(content).__name__}")
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


def _bop_frame(entry: _Image, classes: ClassList) -> FrameRecord:
    visible = {thing.object_id for thing in entry.objects if thing.visible >= MIN_VISIBLE}
    return FrameRecord(
        recording=entry.sequence,
        stamp_ns=entry.number,
        color=entry.color,
        depth=entry.depth,
        mask=entry.masks,
        tags=TagState(tuple(classes.names[i - 1] for i in visible), marker=TagMarker.COMPLETE),
        segment=0,
        name=f"{entry.number:06d}",
    )
