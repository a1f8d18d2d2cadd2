"""The dataset: frames with tags, depth and masks, stored in any layout.

The project's own layout is a folder of plain files, with a subfolder for each recording:

    dataset.yaml                    classes with colours, depth unit, provenance
    recordings/<name>/frames.jsonl  a line for each frame: stamp, files, tags, segment, taps and boxes
    recordings/<name>/color|depth|masks/<stamp_ns>.png
    recordings/<name>/camera.json   intrinsics, if known
    recordings/<name>/source.json   the origin, and what was left out

Recordings are added and removed as folders; nothing else changes. `open.py` opens other layouts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.image_files import (
    check_ids,
    check_image,
    first_few,
    inside,
    read_color,
    read_ids,
    read_image,
    refuse_outside,
)
from deal_core.dataset.taps import BoxLine, Mark, TapLine, check_marks
from deal_core.errors import DatasetError, DealError, UsageError, explain_invalid, nearest_hint
from deal_core.files import read_lines, refuse_output_on_input
from deal_core.limits import read_bytes, refuse_over
from deal_core.structures import (
    BACKGROUND,
    UNLABELLED,
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
from deal_core.text_formats import read_yaml

DATASET_FILE, FRAMES_FILE, CAMERA_FILE, SOURCE_FILE = "dataset.yaml", "frames.jsonl", "camera.json", "source.json"
RECORDINGS = "recordings"
_ADVICE = "extract the recording again with --overwrite, or remove its folder"


@dataclass(frozen=True)
class FrameRecord:
    """One listed frame; `Dataset.load` reads its files.

    Attributes:
        recording: name of its recording; a sequence in BOP, the split in COCO.
        stamp_ns: stamp of the colour image, nanoseconds; the image's number in layouts without time.
        color: file of the colour image.
        depth: file of the depth image; None without one.
        mask: file or folder from which the mask is read; None without one.
        tags: tags of the image.
        segment: number of its scene in the recording.
        name: unique name in the recording; the stamp if empty.
        marks: taps and boxes that a person drew in the image, in any order.
    """

    recording: str
    stamp_ns: int
    color: Path
    depth: Path | None
    mask: Path | None
    tags: TagState
    segment: int
    name: str = ""
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.stamp_ns))

    @property
    def key(self) -> str:
        """`<recording>/<name>`, unique in a dataset."""
        return f"{self.recording}/{self.name}"


@dataclass(frozen=True)
class _CameraFile(CameraIntrinsics):
    """camera.json: the intrinsics, and how the recording's depth was read."""

    depth_unit: str = "mm"
    max_depth_m: float = 0.0


class FrameLoader(Protocol):
    """Reads the images of a layout's frames; each method raises `DatasetError` for a missing or damaged file.

    A layout with depth or masks overrides those methods. Worker processes receive a loader with its dataset, so it must
    be picklable.
    """

    advice: ClassVar[str] = ""
    """What a person can do about a file that cannot be read."""

    def image(self, frame: FrameRecord) -> UInt8Array:
        """Return (H, W, 3) RGB; grey is repeated."""
        return read_color(frame.color, "image", self.advice)

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return (H, W) metres, 0 where invalid; None without a depth image."""
        return None

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, 255 where unlabelled; None without a mask."""
        return None


class Split(NamedTuple):
    """The two sides of `Dataset.split_by_segment`."""

    train: Dataset
    held_out: Dataset


class Dataset:
    """Frames with tags.

    Args:
        path: folder of the dataset.
        classes: classes of tags and masks.
        frames: frames in any order; the attribute `frames` is sorted by recording, stamp and name.
        loader: reads the images; the loader of the project's own layout if None.
        notes: remarks on the list of frames, for a person.
        depth_maps: estimated depth that replaces the loader's.

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
            DatasetError: `path` is not a dataset or has another version, or a line of frames.jsonl is wrong; the
                message names file and line.
        """
        path = Path(path)
        classes = read_classes(path)
        frames = [frame for name in recording_names(path) for frame in read_frames(path, name, classes)]
        if not frames:
            raise DatasetError(f"{path} contains no frames: add a recording with `deal extract BAG --out {path}`")
        return cls(path, classes, frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def recordings(self) -> list[str]:
        """The names of the recordings, sorted."""
        return sorted({frame.recording for frame in self.frames})

    @property
    def tags(self) -> Float32Array:
        """(N, K) tags of all frames: 1 present, 0 absent, nan unknown."""
        rows = [frame.tags.vector(self.classes) for frame in self.frames]
        return np.stack(rows) if rows else np.zeros((0, len(self.classes)), np.float32)

    @property
    def depth_kind(self) -> DepthKind:
        """The kind of depth in its samples: metres, or relative inverse depth."""
        return self._depth_maps.kind if self._depth_maps else "metric"

    @property
    def has_depth(self) -> bool:
        """Whether any frame has depth, measured or estimated."""
        return bool(self.frames) and (self._depth_maps is not None or any(f.depth for f in self.frames))

    def load(self, frame: int | FrameRecord) -> Sample:
        """Read the images of a frame; without a depth image, depth is invalid everywhere.

        Raises:
            DatasetError: a file is missing or damaged, or its type or size differs from what the colour image needs.
        """
        record = frame if isinstance(frame, FrameRecord) else self.frames[frame]
        self._refuse_outside(record)
        image = self._loader.image(record)
        size = (image.shape[0], image.shape[1])
        maps = self._depth_maps
        depth = maps.load(record.key, size) if maps else self._loader.depth(record, size)
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
        """Read only the colour image of a frame, (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: the file is missing or damaged.
        """
        record = frame if isinstance(frame, FrameRecord) else self.frames[frame]
        refuse_outside(self.path, record.color)
        return self._loader.image(record)

    def files(self) -> Iterator[Path]:
        """Yield the files and folders from which the frames are read."""
        for frame in self.frames:
            depth = self._depth_maps.path(frame.key) if self._depth_maps else frame.depth
            yield from (path for path in (frame.color, depth, frame.mask) if path)

    def refuse_output(self, folder: Path, outputs: Iterable[Path] = ()) -> None:
        """Refuse a folder for results in which they would replace the frames, or look like a recording.

        Args:
            folder: folder to write.
            outputs: files that will be written.

        Raises:
            UsageError: an output is a file of the dataset, or the folder lies among its recordings.
        """
        recordings = self.path / RECORDINGS
        if (self.path / DATASET_FILE).is_file() and folder.resolve().is_relative_to(recordings.resolve()):
            raise UsageError(f"{folder} lies among the recordings of the dataset, {recordings}: choose another folder")
        refuse_output_on_input(outputs, self.files(), UsageError)

    def with_depth(self, maps: DepthMaps) -> Dataset:
        """Return the same frames with estimated depth instead of the sensor's.

        Raises:
            DatasetError: frames have no map; the message counts them.
        """
        missing = [f"{frame.key}.png" for frame in self.frames if not maps.has(frame.key)]
        if missing:
            raise DatasetError(
                f"{maps.folder} lacks the depth maps of {len(missing)} of {len(self)} images of {self.path}: "
                f"{first_few(missing)}; make them with `deal depth`"
            )
        return Dataset(self.path, self.classes, self.frames, self._loader, notes=self.notes, depth_maps=maps)

    def with_classes(self, classes: ClassList) -> Dataset:
        """Return the same frames with the tags and masks of other classes, which are mapped by name.

        A class that the dataset does not have is unknown in every frame and has no pixel; one that only the dataset has
        is left out, and its pixels become background.
        """
        if classes.names == self.classes.names:
            return self
        frames = [replace(frame, tags=frame.tags.for_classes(self.classes, classes)) for frame in self.frames]
        loader = _MappedLoader(self._loader, self.classes, classes)
        return Dataset(self.path, classes, frames, loader, notes=self.notes, depth_maps=self._depth_maps)

    def camera(self, recording: str) -> CameraIntrinsics | None:
        """Return the intrinsics of a recording's colour camera, or None without camera.json.

        Raises:
            DatasetError: camera.json cannot be read.
        """
        file = self.path / RECORDINGS / recording / CAMERA_FILE
        if not file.exists():
            return None
        refuse_outside(self.path, file)
        try:
            found = TypeAdapter(_CameraFile).validate_json(read_bytes(file, "description_bytes"))
            return CameraIntrinsics(**{each.name: getattr(found, each.name) for each in fields(CameraIntrinsics)})
        except ValidationError as error:
            raise DatasetError(f"{file}: {explain_invalid(error)}; extract the recording again") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{file} cannot be read ({error}): extract the recording again") from None

    def subset(
        self, recordings: Collection[str] | None = None, predicate: Callable[[FrameRecord], bool] | None = None
    ) -> Dataset:
        """Return the frames of some recordings (all if None) for which `predicate` is true.

        Raises:
            UsageError: a recording is not in the dataset.
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
        """Split into a training and a held-out dataset, by whole segments.

        Frames of one segment show the same scene, so a split by frame would test on training scenes. The side of a
        segment depends only on its name and the seed, so it does not change when recordings are added. Both sides get
        a segment if there are two or more; a single segment is for training.

        Args:
            fraction: share of segments to hold out, in [0, 1).
            seed: seed of the choice.

        Raises:
            UsageError: the fraction is outside [0, 1).
        """
        if not 0 <= fraction < 1:
            raise UsageError(f"expected a held-out fraction of at least 0 and below 1, found {fraction}")
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

    def _refuse_outside(self, record: FrameRecord) -> None:
        depth = None if self._depth_maps else record.depth
        refuse_outside(self.path, *(file for file in (record.color, depth, record.mask) if file))
        if self._depth_maps:
            refuse_outside(self._depth_maps.folder, self._depth_maps.path(record.key))

    def _mask(self, record: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        mask = self._loader.mask(record, size)
        if mask is not None and record.mask is not None:
            check_image(record.mask, "mask", mask, np.uint8, size)
            check_ids(record.mask, mask, self.classes)
        return mask


@dataclass(frozen=True)
class FolderLoader(FrameLoader):
    """Reads the images of the project's own layout, which are always inside their recording's folder.

    Args:
        path: folder of the dataset.
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
        return None if frame.mask is None else read_ids(self._own(frame, frame.mask), _ADVICE)

    def _own(self, frame: FrameRecord, file: Path) -> Path:
        folder = self.path / RECORDINGS / frame.recording
        if not file.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(f"{file} is a link to a file outside {folder}: put the image itself there")
        return file


@dataclass(frozen=True)
class _MappedLoader(FrameLoader):
    """Reads the images of another loader, and gives their masks the ids of other classes."""

    loader: FrameLoader
    classes: ClassList
    wanted: ClassList

    def image(self, frame: FrameRecord) -> UInt8Array:
        return self.loader.image(frame)

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        return self.loader.depth(frame, size)

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        mask = self.loader.mask(frame, size)
        if mask is not None and frame.mask is not None:
            check_ids(frame.mask, mask, self.classes)
        return None if mask is None else self.classes.ids_in(self.wanted)[mask]


class DatasetHeader(BaseModel):
    """The content of dataset.yaml."""

    model_config = ConfigDict(strict=True)

    format: Literal["deal-dataset"]
    version: Literal[1]
    classes: Any = None
    depth_unit: Literal["mm"]
    provenance: Any = None


def read_classes(path: Path) -> ClassList:
    """Return the classes of a dataset.

    Raises:
        DatasetError: dataset.yaml is missing, wrong, or has another version.
    """
    file = path / DATASET_FILE
    refuse_outside(path, file)
    try:
        content = read_yaml(file)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"{path} is not a dataset: expected {DATASET_FILE} in it; make one with `deal extract`"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    try:
        return classes_from_json(DatasetHeader.model_validate(content).classes)
    except ValidationError as error:
        raise DatasetError(f"{file}: {explain_invalid(error, 'a mapping')}") from None
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None


def recording_names(path: Path) -> list[str]:
    """Return the names of a dataset's recordings, without those that are still being written."""
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
    refuse_outside(path, file)
    stamps: set[int] = set()
    try:
        lines = read_lines(file)
    except FileNotFoundError:
        raise DatasetError(
            f"{folder} has no {FRAMES_FILE}: extract the recording again, or remove the folder"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            frame = _parse_frame(folder, recording, line)
            frame.tags.vector(classes)
            check_marks(frame.marks, classes)
            if frame.stamp_ns in stamps:
                raise DatasetError(f"stamp {frame.stamp_ns} appears in an earlier line")
        except DealError as error:
            raise DatasetError(f"{file} line {number}: {error}") from None
        stamps.add(frame.stamp_ns)
        yield frame


def evenly_spread(dataset: Dataset, count: int) -> Dataset:
    """Return `count` frames, evenly spread over the dataset; all if it has fewer."""
    if len(dataset) <= count:
        return dataset
    chosen = {dataset.frames[i * len(dataset) // count].key for i in range(count)}
    return dataset.subset(predicate=lambda frame: frame.key in chosen)


def with_masks(dataset: Dataset) -> Dataset:
    """Return the frames with a mask.

    Raises:
        DatasetError: no frame has a mask.
    """
    masked = dataset.subset(predicate=lambda frame: frame.mask is not None)
    if not len(masked):
        raise DatasetError(f"{dataset.path}: no frame has a mask to compare with; every recording has an empty masks/")
    return masked


def has_class(mask: UInt8Array) -> bool:
    """Return whether a mask contains a class, and not only background and unlabelled pixels."""
    return bool(((mask != BACKGROUND) & (mask != UNLABELLED)).any())


def masks_without_class(place: Path | str, classes: ClassList) -> DatasetError:
    """Return the error for masks that contain no class, although frames are tagged.

    Masks of 0 and 255 draw an object as unlabelled: a model that finds nothing would be right everywhere.
    """
    return DatasetError(
        f"{place}: no mask of a tagged frame contains a class, only {BACKGROUND} (background) and {UNLABELLED} "
        f"(unlabelled): save objects with the id of their class, 1 for {classes.names[0]}"
    )


_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _FrameLine(BaseModel):
    """A line of frames.jsonl."""

    model_config = ConfigDict(strict=True)

    stamp_ns: _Int64
    color: str
    depth: str
    tags: dict[str, Any]
    segment: _Int64
    mask: str | None = None
    points: list[TapLine] = []
    boxes: list[BoxLine] = []


def _parse_frame(folder: Path, recording: str, line: str) -> FrameRecord:
    refuse_over("description_bytes", len(line), "characters", DatasetError)
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
        marks=(*(point.tap() for point in values.points), *(box.box() for box in values.boxes)),
    )


def _rank(segment: tuple[str, int], seed: int) -> float:
    """Return a number in [0, 1) that depends only on the segment and the seed."""
    digest = hashlib.sha256(json.dumps([seed, *segment]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
