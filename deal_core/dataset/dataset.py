"""The dataset: frames with tags, depth and masks, whatever layout they are stored in.

The project's own layout is one folder, its recordings as folders in it, plain files throughout:

    dataset.yaml                    classes with colours, depth unit, provenance
    recordings/<name>/frames.jsonl  a line a frame: stamp, files, tags, segment
    recordings/<name>/color|depth|masks/<stamp_ns>.png
    recordings/<name>/camera.json   intrinsics, where known
    recordings/<name>/source.json   where it comes from and what was left out

A recording is added or removed as a folder; nothing else changes. `open.py` opens other layouts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.image_files import check_ids, check_image, first_few, inside, read_color, read_image
from deal_core.errors import DatasetError, DealError, UsageError, explain_invalid, nearest_hint
from deal_core.structures import (
    CameraIntrinsics,
    ClassList,
    DepthKind,
    Float32Array,
    Sample,
    TagState,
    UInt8Array,
    classes_from_json,
    depth_to_metres,
    valid_depth,
)

DATASET_FILE, FRAMES_FILE, CAMERA_FILE, SOURCE_FILE = "dataset.yaml", "frames.jsonl", "camera.json", "source.json"
RECORDINGS = "recordings"
_ADVICE = "extract the recording again with --overwrite, or remove its folder"


@dataclass(frozen=True)
class FrameRecord:
    """One frame as it is listed; its files are read by `Dataset.load`.

    Attributes:
        recording: frames that were taken together; the sequence of BOP, the split of COCO.
        stamp_ns: of the colour image, nanoseconds; the image's number where a layout has no time.
        color: file of the colour image.
        depth: file of the depth image, None without one.
        mask: file or folder that the mask is read from, None without a mask.
        tags: which classes are visible.
        segment: frames of one recording with one number belong to one scene.
        name: unique in the recording; the stamp when left out.
    """

    recording: str
    stamp_ns: int
    color: Path
    depth: Path | None
    mask: Path | None
    tags: TagState
    segment: int
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.stamp_ns))

    @property
    def key(self) -> str:
        """`<recording>/<name>`, unique in a dataset."""
        return f"{self.recording}/{self.name}"


class FrameLoader(Protocol):
    """Reads the images of a layout's frames; each method raises `DatasetError` for a file that is wrong.

    A loader travels to worker processes with its dataset, so it must be picklable.
    """

    def image(self, frame: FrameRecord) -> UInt8Array:
        """Return (H, W, 3) RGB."""

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return (H, W) metres, 0 where invalid; None without a depth image."""

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, 255 where unlabelled; None without a mask."""


class Split(NamedTuple):
    """The two sides of `Dataset.split_by_segment`."""

    train: Dataset
    held_out: Dataset


class Dataset:
    """Frames with tags.

    Attributes:
        path: the folder.
        classes: the classes of tags and masks.
        frames: all frames, by recording, stamp and name.
        notes: what a person should know about how they were listed.

    Args:
        path: the folder.
        classes: the classes of tags and masks.
        frames: in any order.
        loader: reads their images; that of the project's own layout when left out.
        notes: see above.
        depth_maps: estimated depth, in place of the loader's.

    Example:
        >>> dataset = Dataset.open(Path("kitchen"))  # doctest: +SKIP
        >>> train, held_out = dataset.split_by_segment(0.2, seed=11)  # doctest: +SKIP
        >>> sample = train.load(0)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        classes: ClassList,
        frames: Sequence[FrameRecord],
        loader: FrameLoader | None = None,
        *,
        notes: Sequence[str] = (),
        depth_maps: DepthMaps | None = None,
    ) -> None:
        self.path = path
        self.classes = classes
        self.frames = sorted(frames, key=lambda frame: (frame.recording, frame.stamp_ns, frame.name))
        self.notes = tuple(notes)
        self._loader = loader or FolderLoader(path)
        self._depth_maps = depth_maps

    @classmethod
    def open(cls, path: Path | str) -> Dataset:
        """Read the lists of a dataset folder of the project's own layout; images are read by `load`.

        Raises:
            DatasetError: no dataset, one of another version, or a line of frames.jsonl that is wrong; the message
                names file and line.
        """
        path = Path(path)
        classes = read_classes(path)
        frames = [frame for name in recording_names(path) for frame in read_frames(path, name, classes)]
        if not frames:
            raise DatasetError(f"{path} holds no frames: add a recording with `deal extract BAG --out {path}`")
        return cls(path, classes, frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def recordings(self) -> list[str]:
        """The names of the recordings that frames come from."""
        return sorted({frame.recording for frame in self.frames})

    @property
    def tags(self) -> Float32Array:
        """(N, K) tags of all frames: 1 present, 0 absent, nan unknown."""
        rows = [frame.tags.vector(self.classes) for frame in self.frames]
        return np.stack(rows) if rows else np.zeros((0, len(self.classes)), np.float32)

    @property
    def depth_kind(self) -> DepthKind:
        """What the depth of its samples holds: metres, or relative inverse depth."""
        return self._depth_maps.kind if self._depth_maps else "metric"

    @property
    def has_depth(self) -> bool:
        """Whether any frame has depth, measured or estimated."""
        return bool(self.frames) and (self._depth_maps is not None or any(f.depth for f in self.frames))

    def load(self, frame: int | FrameRecord) -> Sample:
        """Read the images of a frame; without a depth image, depth is invalid everywhere.

        Raises:
            DatasetError: a file is missing, damaged, of another type, or of another size than the colour image.
        """
        record = frame if isinstance(frame, FrameRecord) else self.frames[frame]
        image = self._loader.image(record)
        size = (image.shape[0], image.shape[1])
        if self._depth_maps:
            depth: Float32Array | None = self._depth_maps.load(record.key, size)
        else:
            depth = self._loader.depth(record, size)
        if depth is None:
            depth = np.zeros(size, np.float32)
        return Sample(
            image=image,
            depth=depth,
            depth_valid=valid_depth(depth),
            tags=record.tags.vector(self.classes),
            key=record.key,
            mask=self._mask(record, size),
        )

    def load_image(self, frame: int | FrameRecord) -> UInt8Array:
        """Read the colour image of a frame alone, (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is missing or damaged.
        """
        return self._loader.image(frame if isinstance(frame, FrameRecord) else self.frames[frame])

    def with_depth(self, maps: DepthMaps) -> Dataset:
        """Return the same frames with estimated depth in place of the sensor's.

        Raises:
            DatasetError: frames without a map; the message counts them.
        """
        missing = [f"{frame.key}.png" for frame in self.frames if not maps.has(frame.key)]
        if missing:
            raise DatasetError(
                f"{maps.folder} lacks the depth maps of {len(missing)} of {len(self)} images of {self.path}: "
                f"{first_few(missing)}; make them with `deal depth`"
            )
        return Dataset(self.path, self.classes, self.frames, self._loader, notes=self.notes, depth_maps=maps)

    def camera(self, recording: str) -> CameraIntrinsics | None:
        """Return the intrinsics of a recording's colour camera, or None where there is no camera.json.

        Raises:
            DatasetError: camera.json cannot be read.
        """
        file = self.path / RECORDINGS / recording / CAMERA_FILE
        if not file.exists():
            return None
        try:
            return TypeAdapter(CameraIntrinsics).validate_json(file.read_bytes())
        except OSError as error:
            raise DatasetError(f"{file} cannot be read ({error}): extract the recording again") from None
        except ValidationError as error:
            raise DatasetError(f"{file}: {explain_invalid(error)}; extract the recording again") from None

    def subset(
        self,
        recordings: Collection[str] | None = None,
        predicate: Callable[[FrameRecord], bool] | None = None,
    ) -> Dataset:
        """Return the frames of some recordings, and of those the ones for which `predicate` is true.

        Raises:
            UsageError: a recording that is not in the dataset.
        """
        known = self.recordings
        for name in recordings or ():
            if name not in known:
                raise UsageError(
                    f"{self.path} has no recording '{name}': expected one of {', '.join(known)}."
                    f"{nearest_hint(name, known)}"
                )
        frames = [f for f in self.frames if recordings is None or f.recording in recordings]
        chosen = [f for f in frames if predicate is None or predicate(f)]
        return Dataset(self.path, self.classes, chosen, self._loader, notes=self.notes, depth_maps=self._depth_maps)

    def split_by_segment(self, fraction: float, seed: int = 0) -> Split:
        """Split into a training side and one held out, whole segments at a time.

        Frames of one segment show the same scene, so a split by frame would test on what was trained on. Which
        side a segment falls on depends on its name and the seed alone: it stays when recordings are added. Both
        sides get a segment if there are two or more; a single one is trained on.

        Args:
            fraction: share of segments to hold out, between 0 and 1; 0 holds out none.
            seed: another seed, another choice.

        Raises:
            UsageError: a fraction outside [0, 1).
        """
        if not 0 <= fraction < 1:
            raise UsageError(f"expected a fraction to hold out from 0 to below 1, found {fraction}")
        ranks = {key: _rank(key, seed) for key in {(f.recording, f.segment) for f in self.frames}}
        ordered = sorted(ranks, key=lambda key: (ranks[key], key))
        held = {key for key in ordered if ranks[key] < fraction}
        if fraction > 0 and ordered:
            # At least the first is held out, and at least the last is trained on.
            held = (held or {ordered[0]}) - {ordered[-1]}
        return Split(
            self.subset(predicate=lambda f: (f.recording, f.segment) not in held),
            self.subset(predicate=lambda f: (f.recording, f.segment) in held),
        )

    def _mask(self, record: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        mask = self._loader.mask(record, size)
        if mask is not None and record.mask is not None:
            check_image(record.mask, "mask", mask, np.uint8, size)
            check_ids(record.mask, mask, self.classes)
        return mask


@dataclass(frozen=True)
class FolderLoader:
    """Reads the images of the project's own layout, which never leave their recording's folder.

    Args:
        path: the dataset folder.
    """

    path: Path

    def image(self, frame: FrameRecord) -> UInt8Array:
        """Return (H, W, 3) RGB."""
        return read_color(self._own(frame, frame.color), "colour image", _ADVICE)

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return (H, W) metres, 0 where invalid."""
        if frame.depth is None:
            return None
        depth_mm = read_image(self._own(frame, frame.depth), "depth image", _ADVICE)
        check_image(frame.depth, "depth", depth_mm, np.uint16, size)
        return depth_to_metres(depth_mm)[0]

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, or None without a mask."""
        return None if frame.mask is None else read_image(self._own(frame, frame.mask), "mask image", _ADVICE)

    def _own(self, frame: FrameRecord, file: Path) -> Path:
        folder = self.path / RECORDINGS / frame.recording
        if not file.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(f"{file} is a link that leaves {folder}: put the image itself there")
        return file


class DatasetHeader(BaseModel):
    """What dataset.yaml says."""

    model_config = ConfigDict(strict=True)

    format: Literal["deal-dataset"]
    version: Literal[1]
    classes: Any = None
    depth_unit: Literal["mm"]
    provenance: Any = None


def read_classes(path: Path) -> ClassList:
    """Return the classes of a dataset.

    Raises:
        DatasetError: no dataset.yaml, or one that is wrong or of another version.
    """
    file = path / DATASET_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is no dataset: expected {DATASET_FILE} in it; make one with `deal extract`"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    try:
        return classes_from_json(DatasetHeader.model_validate(content).classes)
    except ValidationError as error:
        raise DatasetError(f"{file}: {explain_invalid(error, 'a mapping')}") from None
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None


def recording_names(path: Path) -> list[str]:
    """Return the names of a dataset's recordings, those still being written left out."""
    folder = path / RECORDINGS
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def read_frames(path: Path, recording: str, classes: ClassList) -> Iterator[FrameRecord]:
    """Yield the frames that a recording's frames.jsonl lists.

    Raises:
        DatasetError: the file is missing, or a line is wrong; the message names the line.
    """
    folder = path / RECORDINGS / recording
    file = folder / FRAMES_FILE
    stamps: set[int] = set()
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    frame = _parse_frame(folder, recording, line)
                    frame.tags.vector(classes)
                    if frame.stamp_ns in stamps:
                        raise DatasetError(f"stamp {frame.stamp_ns} was there before")
                except DealError as error:
                    raise DatasetError(f"{file} line {number}: {error}") from None
                stamps.add(frame.stamp_ns)
                yield frame
    except FileNotFoundError:
        raise DatasetError(
            f"{folder} has no {FRAMES_FILE}: extract the recording again, or remove the folder"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None


def evenly_spread(dataset: Dataset, count: int) -> Dataset:
    """Return `count` frames of the dataset, evenly spread over it; all where it has no more."""
    if len(dataset) <= count:
        return dataset
    chosen = {dataset.frames[i * len(dataset) // count].key for i in range(count)}
    return dataset.subset(predicate=lambda frame: frame.key in chosen)


def with_masks(dataset: Dataset) -> Dataset:
    """Return the frames that have a mask to compare with.

    Raises:
        DatasetError: there is none.
    """
    masked = dataset.subset(predicate=lambda frame: frame.mask is not None)
    if not len(masked):
        raise DatasetError(f"{dataset.path}: no frame has a mask to compare with; masks/ is empty in every recording")
    return masked


class _FrameLine(BaseModel):
    """A line of frames.jsonl."""

    model_config = ConfigDict(strict=True)

    stamp_ns: int
    color: str
    depth: str
    tags: dict[str, Any]
    segment: int
    mask: str | None = None


def _parse_frame(folder: Path, recording: str, line: str) -> FrameRecord:
    try:
        values = _FrameLine.model_validate_json(line)
    except ValidationError as error:
        raise DatasetError(explain_invalid(error)) from None
    return FrameRecord(
        recording=recording,
        stamp_ns=values.stamp_ns,
        color=inside(folder, values.color),
        depth=inside(folder, values.depth),
        mask=None if values.mask is None else inside(folder, values.mask),
        tags=TagState.from_json(values.tags),
        segment=values.segment,
    )


def _rank(segment: tuple[str, int], seed: int) -> float:
    """Return a number in [0, 1) that a segment keeps whatever else is in the dataset."""
    digest = hashlib.sha256(json.dumps([seed, *segment]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
