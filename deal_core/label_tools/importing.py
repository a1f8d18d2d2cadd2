"""Write masks of another tool as a mask folder of this project, checked by the tags of the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.errors import DatasetError, UsageError, nearest_hint, short
from deal_core.label_tools.choices import MissingUse, OtherUse, VetoedUse
from deal_core.label_tools.frames import Matches, match_frames
from deal_core.label_tools.layers import BACKGROUND_NAME, UNLABELLED_NAME, LabelSource, Layer
from deal_core.label_tools.snap import snap_mask
from deal_core.masks.mask_folder import cam_paths, new_mask_folder
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList, Sample, UInt8Array

_SHOWN_NAMES = 12


@dataclass(frozen=True)
class ImportSettings:
    """What happens to masks on their way in.

    Args:
        names: Class, `background` or `unlabelled` for names of the source; other names are those of classes.
        others: Use of the pixels of a name that is no class and not in `names`.
        veto: Whether the pixels of a class that the tags of the frame exclude are removed.
        vetoed: What these pixels become.
        missing: Use of a mask that lacks a class which the tags of the frame name.
        snap: Whether outlines are moved to regions of depth, see `deal_core.label_tools.snap`.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    others: OtherUse = "refuse"
    veto: bool = True
    vetoed: VetoedUse = "background"
    missing: MissingUse = "keep"
    snap: bool = False


@dataclass(frozen=True)
class ClassImport:
    """What came in of one class.

    Args:
        name: Name of the class.
        frames: Number of frames with a pixel of it.
        pixels: Number of its pixels.
        vetoed: Number of frames in which it was removed, as the tags exclude it.
        vetoed_pixels: Number of the removed pixels, before others covered or replaced them.
        missing: Number of frames that are tagged with it and have no pixel of it.
    """

    name: str
    frames: int
    pixels: int
    vetoed: int
    vetoed_pixels: int
    missing: int


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote.

    Args:
        frames: Number of masks that were written.
        without: Number of frames of the dataset that have no mask now.
        skipped: Number of masks that were not written, as a class is missing in them.
        strangers: Images of the source that are no frame of the dataset.
        classes: What came in of each class.
        flagged: Keys of the frames whose mask lacks a class that the frame is tagged with.
        others: Number of masks with each name that became background or unlabelled.
        notes: Remarks of the reader.
    """

    frames: int
    without: int
    skipped: int
    strangers: tuple[str, ...]
    classes: tuple[ClassImport, ...]
    flagged: tuple[str, ...]
    others: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def import_masks(
    source: LabelSource,
    dataset: Dataset,
    out: Path,
    settings: ImportSettings | None = None,
    *,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda frames: None,
) -> ImportSummary:
    """Write the masks of a source as a folder of masks, complete or not at all.

    Args:
        source: Masks of another tool.
        dataset: Frames that they belong to.
        out: Folder to write; `deal_core.masks.mask_folder` describes it.
        settings: What happens to the masks.
        overwrite: Whether to replace a folder of masks that is there.
        advance: Function to call with the number of processed frames.

    Raises:
        DatasetError: a name is unknown (the message names all), images and frames do not match, or a file cannot be
            read or written.
        UsageError: the settings name what is no class, there is no depth to snap to, or the files would replace those
            of the dataset.
    """
    settings = settings or ImportSettings()
    if settings.snap and not dataset.has_depth:
        raise UsageError(f"--snap needs depth, and {dataset.path} has none: estimate it with `deal depth`")
    matches = match_frames(source.images, dataset, source.path)
    ids, others = _ids_of_names(source, matches, dataset.classes, settings)
    frames = [frame for frame in dataset.frames if frame.key in matches.images]
    dataset.refuse_output(out, (cam_paths(out, frame.key)[1] for frame in frames))
    tally = _Tally(dataset.classes)
    skipped = 0
    about = {"path": source.path.name, **asdict(settings), "names": dict(settings.names)}
    with new_mask_folder(out, dataset.classes, about, overwrite=overwrite) as write:
        for done, frame in enumerate(frames, 1):
            sample = dataset.load(frame)
            size = (sample.image.shape[0], sample.image.shape[1])
            layers = source.layers(matches.images[frame.key], frame, size)
            mask = _drawn(layers, ids, sample, settings, tally)
            if settings.snap:
                mask = snap_mask(sample, mask, dataset.depth_kind)
            is_missing = tally.count(frame, sample, mask)
            if is_missing and settings.missing == "skip":
                skipped += 1
            else:
                if is_missing and settings.missing == "unlabelled":
                    mask = np.where(mask == BACKGROUND, np.uint8(UNLABELLED), mask)
                write(frame.key, mask)
            advance(done)
    written = len(frames) - skipped
    return ImportSummary(
        written,
        len(dataset) - written,
        skipped,
        matches.strangers,
        tally.classes(),
        tuple(tally.flagged),
        others,
        tuple(source.notes),
    )


def parse_names(pairs: Sequence[str], classes: ClassList) -> dict[str, str]:
    """Return the class of each name, from texts `name=class`.

    Args:
        pairs: The texts; `name=background` and `name=unlabelled` are for pixels without a class.
        classes: Classes of the dataset.

    Raises:
        UsageError: a text has another form, or names no class.

    >>> parse_names(["cup=mug", "table=background"], ClassList(("mug",)))
    {'cup': 'mug', 'table': 'background'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, target = pair.rpartition("=")
        if not sign or not name.strip() or name.strip() in found:
            raise UsageError(f"--map: expected `name=class`, each name once, found {short(pair)}")
        known = (*classes.names, BACKGROUND_NAME, UNLABELLED_NAME)
        if target.strip() not in known:
            raise UsageError(
                f"--map {pair[:80]}: expected one of {', '.join(known)}.{nearest_hint(target.strip(), known)}"
            )
        found[name.strip()] = target.strip()
    return found


def _ids_of_names(
    source: LabelSource, matches: Matches, classes: ClassList, settings: ImportSettings
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the id of each name that the masks use, and the number of masks with each name that is no class."""
    used: Counter[str] = Counter()
    for image in matches.images.values():
        used.update(source.labels(image))
    if unused := [name for name in settings.names if name not in used]:
        raise UsageError(
            f"--map: {short(unused[0])} is in no mask of {source.path}: expected one of "
            f"{', '.join(sorted(used)[:_SHOWN_NAMES]) or 'no name'}.{nearest_hint(unused[0], used)}"
        )
    ids: dict[str, int] = {}
    others: dict[str, int] = {}
    for name in used:
        target = settings.names.get(name, name)
        if target in classes.names:
            ids[name] = classes.id_of(target)
        elif target in (BACKGROUND_NAME, UNLABELLED_NAME):
            ids[name] = UNLABELLED if target == UNLABELLED_NAME else BACKGROUND
        else:
            others[name] = used[name]
            ids[name] = UNLABELLED if settings.others == "unlabelled" else BACKGROUND
    if others and settings.others == "refuse":
        told = [f"{name[:60]} (in {count} masks)" for name, count in sorted(others.items())]
        raise DatasetError(
            f"{source.path}: no classes of the dataset: {', '.join(told[:_SHOWN_NAMES])}"
            f"{', …' if len(told) > _SHOWN_NAMES else ''}; expected {', '.join(classes.names)}."
            f"{nearest_hint(min(others), classes.names)} Name the class with --map name=class, or take the pixels of "
            "all of them as background or unlabelled (--others)"
        )
    return ids, others


def _drawn(
    layers: Sequence[Layer], ids: Mapping[str, int], sample: Sample, settings: ImportSettings, tally: _Tally
) -> UInt8Array:
    """Return the mask (H, W) of the layers without what the tags exclude."""
    mask = np.full(sample.image.shape[:2], BACKGROUND, np.uint8)
    for layer in layers:
        number = ids[layer.label]
        is_class = number not in (BACKGROUND, UNLABELLED)
        if is_class and settings.veto and sample.tags[number - 1] == 0:
            tally.veto(number, layer.pixels, sample.key)
            if settings.vetoed == "background":
                continue  # what lies below shows
            number = UNLABELLED
        mask[layer.place][layer.part] = number
    return mask


class _Tally:
    """Counts what came in, frame by frame."""

    def __init__(self, classes: ClassList) -> None:
        self._classes = classes
        count = len(classes)
        self._frames, self._pixels, self._missing = (np.zeros(count, np.int64) for _ in range(3))
        self._vetoed: dict[int, set[str]] = {}
        self._vetoed_pixels = np.zeros(count, np.int64)
        self.flagged: list[str] = []

    def veto(self, number: int, pixels: int, key: str) -> None:
        """Count an object that the tags exclude."""
        self._vetoed.setdefault(number - 1, set()).add(key)
        self._vetoed_pixels[number - 1] += pixels

    def count(self, frame: FrameRecord, sample: Sample, mask: UInt8Array) -> bool:
        """Count the mask of a frame, and return whether it lacks a class that the frame is tagged with."""
        pixels = np.bincount(mask.ravel(), minlength=256)[1 : len(self._classes) + 1]
        lacks = (sample.tags == 1) & (pixels == 0)
        self._frames += pixels > 0
        self._pixels += pixels
        self._missing += lacks
        if lacks.any():
            self.flagged.append(frame.key)
        return bool(lacks.any())

    def classes(self) -> tuple[ClassImport, ...]:
        """Return what came in of each class."""
        return tuple(
            ClassImport(
                name,
                int(self._frames[k]),
                int(self._pixels[k]),
                len(self._vetoed.get(k, ())),
                int(self._vetoed_pixels[k]),
                int(self._missing[k]),
            )
            for k, name in enumerate(self._classes.names)
        )
