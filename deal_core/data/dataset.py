"""The dataset on disk: one folder, its recordings as folders in it, plain files throughout.

    dataset.yaml                    classes with colours, depth unit, provenance
    recordings/<name>/frames.jsonl  a line a frame: stamp, files, tags, segment
    recordings/<name>/color|depth|masks/<stamp_ns>.png
    recordings/<name>/camera.json   intrinsics, where known
    recordings/<name>/source.json   where it comes from and what was left out

A recording is added or removed as a folder; nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from deal_core.data.class_json import classes_from_json, classes_to_json, require_same_classes
from deal_core.data.sample import (
    UNLABELLED,
    CameraIntrinsics,
    ClassList,
    Float32Array,
    RgbdPair,
    Sample,
    TagState,
    UInt8Array,
    depth_to_metres,
)
from deal_core.errors import DatasetError, DealError, UsageError, nearest_hint
from deal_core.files import replacing

FORMAT, VERSION = "deal-dataset", 1
DATASET_FILE, FRAMES_FILE, CAMERA_FILE, SOURCE_FILE = "dataset.yaml", "frames.jsonl", "camera.json", "source.json"
RECORDINGS = "recordings"

# On real colour and depth, run-length matching is both faster and smaller than zlib's default at level 1, and
# the one filter is as good as a choice among all five at two thirds of the time. An older OpenCV has no choice.
_PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE) + (
    (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()
)


@dataclass(frozen=True)
class FrameRecord:
    """One frame as frames.jsonl lists it; the files are read by `Dataset.load`."""

    recording: str
    stamp_ns: int
    color: Path
    depth: Path
    mask: Path | None
    tags: TagState
    segment: int

    @property
    def key(self) -> str:
        """`<recording>/<stamp_ns>`, unique in a dataset."""
        return f"{self.recording}/{self.stamp_ns}"


class Split(NamedTuple):
    """The two sides of `Dataset.split_by_segment`."""

    train: Dataset
    held_out: Dataset


class Dataset:
    """Frames with tags, read from a dataset folder.

    Attributes:
        path: the folder.
        classes: the classes of tags and masks.
        frames: all frames, by recording and stamp.

    Example:
        >>> dataset = Dataset.open(Path("kitchen"))  # doctest: +SKIP
        >>> train, held_out = dataset.split_by_segment(0.2, seed=11)  # doctest: +SKIP
        >>> sample = train.load(0)  # doctest: +SKIP
    """

    def __init__(self, path: Path, classes: ClassList, frames: Sequence[FrameRecord]) -> None:
        self.path = path
        self.classes = classes
        self.frames = sorted(frames, key=lambda frame: (frame.recording, frame.stamp_ns))

    @classmethod
    def open(cls, path: Path | str) -> Dataset:
        """Read the lists of a dataset folder; images are read by `load`.

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

    def load(self, frame: int | FrameRecord) -> Sample:
        """Read the images of a frame.

        Raises:
            DatasetError: a file is missing, damaged, of another type, or of another size than the colour image.
        """
        record = frame if isinstance(frame, FrameRecord) else self.frames[frame]
        color = self._read(record, record.color, "colour", cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        depth_mm = self._read(record, record.depth, "depth", cv2.IMREAD_UNCHANGED)
        _check_image(record.depth, "depth", depth_mm, np.uint16, color.shape[:2])
        depth, valid = depth_to_metres(depth_mm)
        mask = None
        if record.mask is not None:
            mask = self._read(record, record.mask, "mask", cv2.IMREAD_UNCHANGED)
            _check_image(record.mask, "mask", mask, np.uint8, color.shape[:2])
            self._check_ids(record.mask, mask)
        return Sample(
            image=cv2.cvtColor(color, cv2.COLOR_BGR2RGB),
            depth=depth,
            depth_valid=valid,
            tags=record.tags.vector(self.classes),
            key=record.key,
            mask=mask,
        )

    def camera(self, recording: str) -> CameraIntrinsics | None:
        """Return the intrinsics of a recording's colour camera, or None where they are not known.

        Raises:
            DatasetError: camera.json cannot be read.
        """
        file = self.path / RECORDINGS / recording / CAMERA_FILE
        if not file.exists():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return CameraIntrinsics(**{**values, "distortion": tuple(values["distortion"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{file} cannot be read ({error}): extract the recording again") from None

    def subset(
        self,
        recordings: Collection[str] | None = None,
        predicate: Callable[[FrameRecord], bool] | None = None,
    ) -> Dataset:
        """Return the frames of some recordings, and of those the ones for which `predicate` is true.

        Raises:
            UsageError: a recording that is not in the dataset.
        """
        for name in recordings or ():
            if name not in self.recordings:
                raise UsageError(
                    f"{self.path} has no recording '{name}': expected one of {', '.join(self.recordings)}."
                    f"{nearest_hint(name, self.recordings)}"
                )
        frames = [f for f in self.frames if recordings is None or f.recording in recordings]
        return Dataset(self.path, self.classes, [f for f in frames if predicate is None or predicate(f)])

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
            # The first comes to the held-out side at the latest, and the last stays on the other.
            held = (held or {ordered[0]}) - {ordered[-1]}
        return Split(
            self.subset(predicate=lambda f: (f.recording, f.segment) not in held),
            self.subset(predicate=lambda f: (f.recording, f.segment) in held),
        )

    def _read(self, record: FrameRecord, file: Path, what: str, flags: int) -> npt.NDArray[Any]:
        folder = self.path / RECORDINGS / record.recording
        try:
            if not file.resolve().is_relative_to(folder.resolve()):
                raise DatasetError(f"{file} is a link that leaves {folder}: put the {what} image itself there")
            data = file.read_bytes()
        except OSError as error:
            raise DatasetError(
                f"the {what} image {file} of recording '{record.recording}' cannot be read ({error.strerror}): "
                "extract the recording again with --overwrite, or remove its folder"
            ) from None
        pixels = _decode(data, flags)
        if pixels is None:
            raise DatasetError(
                f"the {what} image {file} of recording '{record.recording}' is damaged ({len(data)} bytes): "
                "extract the recording again with --overwrite, or remove its folder"
            )
        return pixels

    def _check_ids(self, file: Path, mask: UInt8Array) -> None:
        # A lookup of 256 entries: ids are checked on every load.
        used = np.bincount(mask.reshape(-1), minlength=256).astype(bool)
        used[: len(self.classes) + 1] = used[UNLABELLED] = False
        if used.any():
            raise DatasetError(
                f"mask {file} holds id {int(np.flatnonzero(used)[0])}, expected 0 to {len(self.classes)} "
                f"({', '.join(self.classes.names)}) or {UNLABELLED}"
            )


class DatasetWriter:
    """Add recordings to a dataset folder, which is made with the first one.

    Each recording is written to a hidden folder and renamed when it is complete; if that fails, nothing is left.

    Args:
        path: the dataset folder, existing or not.
        classes: must be those of the dataset if it exists.

    Raises:
        DatasetError: `path` is something else, or its classes differ.
    """

    def __init__(self, path: Path | str, classes: ClassList) -> None:
        self.path = Path(path)
        self.classes = classes
        if (self.path / DATASET_FILE).exists():
            require_same_classes(classes, "what is to be added", read_classes(self.path), f"dataset {self.path}")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DatasetError(f"{self.path} exists and is no dataset: it has no {DATASET_FILE}; choose another folder")

    def recording(
        self, name: str, *, overwrite: bool = False, color_format: str = "png", jpeg_quality: int = 95
    ) -> RecordingFolder:
        """Return the folder for one recording, to be used as a context manager.

        Args:
            name: of the folder.
            overwrite: replace a recording of that name.
            color_format: "png", exact, or "jpeg", about a fifth of the size.
            jpeg_quality: 1 to 100.

        Raises:
            DatasetError: the recording exists already.
            UsageError: a name that is no plain folder name, or an unknown colour format.
        """
        check_recording_name(name)
        if color_format not in ("png", "jpeg") or not 1 <= jpeg_quality <= 100:
            raise UsageError(
                f"expected colour as png, or jpeg with a quality of 1 to 100, found {color_format} {jpeg_quality}"
            )
        final = self.path / RECORDINGS / name
        if final.exists() and not overwrite:
            raise DatasetError(
                f"{final} exists already: replace it with --overwrite, or give the new recording another --name"
            )
        return RecordingFolder(self, final, None if color_format == "png" else jpeg_quality)

    def write_header(self) -> None:
        """Write dataset.yaml unless it exists."""
        file = self.path / DATASET_FILE
        if file.exists():
            return
        content = {
            "format": FORMAT,
            "version": VERSION,
            "classes": classes_to_json(self.classes),
            "depth_unit": "mm",
            "provenance": "made by `deal extract`; each recording's source.json says from what",
        }
        with replacing(file) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


class RecordingFolder:
    """One recording of a dataset under its temporary name; made by `DatasetWriter.recording`."""

    def __init__(self, dataset: DatasetWriter, final: Path, jpeg_quality: int | None) -> None:
        self._dataset = dataset
        self._final = final
        self._flags = _PNG_FLAGS if jpeg_quality is None else (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality)
        self._suffix = ".png" if jpeg_quality is None else ".jpg"
        self._stamps: set[int] = set()
        self.frames_written = 0

    def __enter__(self) -> RecordingFolder:
        self._made = _make_folders(self._final.parent)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self._final.name}.", dir=self._final.parent))
        os.chmod(self._folder, 0o755)
        (self._folder / "color").mkdir()
        (self._folder / "depth").mkdir()
        self._list = (self._folder / FRAMES_FILE).open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._list.close()
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            for folder in reversed(self._made):
                if not any(folder.iterdir()):
                    folder.rmdir()

    def write(self, pair: RgbdPair, tags: TagState, segment: int, mask: UInt8Array | None = None) -> None:
        """Add a frame.

        Args:
            pair: colour and depth.
            tags: of the dataset's classes.
            segment: frames with one number belong to one scene.
            mask: (H, W) class ids, if somebody drew them.

        Raises:
            DatasetError: a stamp that was written before, images that do not fit each other, or a full disk.
            UsageError: a tag that is no class of the dataset.
        """
        tags.vector(self._dataset.classes)
        if pair.stamp_ns in self._stamps:
            raise DatasetError(f"{self._final}: a frame with stamp {pair.stamp_ns} ns was written before")
        _check_image(self._final, "depth", pair.depth_mm, np.uint16, pair.color.shape[:2])
        line: dict[str, Any] = {
            "stamp_ns": pair.stamp_ns,
            "color": f"color/{pair.stamp_ns}{self._suffix}",
            "depth": f"depth/{pair.stamp_ns}.png",
            "tags": tags.to_json(),
            "segment": segment,
        }
        self._write_image(line["color"], cv2.cvtColor(pair.color, cv2.COLOR_RGB2BGR), self._flags)
        self._write_image(line["depth"], pair.depth_mm, _PNG_FLAGS)
        if mask is not None:
            _check_image(self._final, "mask", mask, np.uint8, pair.color.shape[:2])
            line["mask"] = f"masks/{pair.stamp_ns}.png"
            (self._folder / "masks").mkdir(exist_ok=True)
            self._write_image(line["mask"], mask, _PNG_FLAGS)
        self._list.write(json.dumps(line) + "\n")
        self._stamps.add(pair.stamp_ns)
        self.frames_written += 1

    def write_camera(self, camera: CameraIntrinsics) -> None:
        """Write the colour camera's intrinsics."""
        (self._folder / CAMERA_FILE).write_text(json.dumps(asdict(camera), indent=2) + "\n", encoding="utf-8")

    def write_source(self, source: Mapping[str, Any]) -> None:
        """Write where the recording comes from and what was left out, as plain JSON."""
        (self._folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")

    def _write_image(self, name: str, image: npt.NDArray[Any], flags: Sequence[int]) -> None:
        _, data = cv2.imencode(Path(name).suffix, image, flags)
        try:
            (self._folder / name).write_bytes(data.data)
        except OSError as error:
            raise DatasetError(f"{self._final / name} cannot be written: {error.strerror}") from error

    def _publish(self) -> None:
        if not self.frames_written:
            raise DatasetError(f"{self._final}: no frame was written, so nothing is kept")
        self._dataset.write_header()
        old = self._folder.with_name(f"{self._folder.name}.old")
        if self._final.exists():
            os.rename(self._final, old)
        try:
            os.rename(self._folder, self._final)
        except OSError as error:
            if old.exists():
                os.rename(old, self._final)
            raise DatasetError(f"{self._final} cannot be put in place: {error.strerror}") from error
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old, ignore_errors=True)


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
    expected = {"format": FORMAT, "version": VERSION, "depth_unit": "mm"}
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: expected a mapping with {', '.join(expected)} and classes, found {content!r}")
    for key, value in expected.items():
        if content.get(key) != value:
            raise DatasetError(f"{file}: expected {key}: {value}, found {content.get(key)!r}")
    try:
        return classes_from_json(content.get("classes"))
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


def check_recording_name(name: str) -> None:
    """Refuse a name that is not that of one visible folder.

    Raises:
        UsageError: it is empty, hidden, or holds a separator.
    """
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise UsageError(f"'{name}' cannot name a recording: expected a plain folder name, as in kitchen_1")


def _parse_frame(folder: Path, recording: str, line: str) -> FrameRecord:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"expected a JSON object, found {line.strip()[:80]!r} ({error})") from None
    if not isinstance(values, dict):
        raise DatasetError(f"expected a JSON object, found {line.strip()[:80]!r}")
    for key, kind in (("stamp_ns", int), ("segment", int), ("tags", dict), ("color", str), ("depth", str)):
        if type(values.get(key)) is not kind:
            raise DatasetError(f"expected '{key}' as {kind.__name__}, found {values.get(key)!r}")
    return FrameRecord(
        recording=recording,
        stamp_ns=values["stamp_ns"],
        color=_inside(folder, values["color"]),
        depth=_inside(folder, values["depth"]),
        mask=None if values.get("mask") is None else _inside(folder, values["mask"]),
        tags=TagState.from_json(values["tags"]),
        segment=values["segment"],
    )


def _inside(folder: Path, name: Any) -> Path:
    """Return the file of a name in frames.jsonl, which must stay in the recording's folder."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise DatasetError(f"expected a file inside the recording's folder, found {name!r}")
    return folder.joinpath(*parts)


def _check_image(
    file: Path, what: str, image: npt.NDArray[Any], dtype: type[np.generic], size: tuple[int, ...]
) -> None:
    if image.dtype != dtype or image.shape != size:
        raise DatasetError(
            f"{what} of {file}: expected {np.dtype(dtype).name} of the colour image's size {size}, "
            f"found {image.dtype} {image.shape}"
        )


def _decode(data: bytes, flags: int) -> npt.NDArray[Any] | None:
    # OpenCV fills the missing rows of a file that was cut, so look for the end that a complete one has.
    if b"IEND" not in data[-64:] and b"\xff\xd9" not in data[-64:]:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _rank(segment: tuple[str, int], seed: int) -> float:
    """Return a number in [0, 1) that a segment keeps whatever else is in the dataset."""
    digest = hashlib.sha256(json.dumps([seed, *segment]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that did not exist, outermost first."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be made: {error.strerror}") from error
    return missing[::-1]
