"""Write datasets in the project's own layout, one recording at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from deal_core.dataset.choices import ColorFormat
from deal_core.dataset.dataset import (
    CAMERA_FILE,
    DATASET_FILE,
    FRAMES_FILE,
    RECORDINGS,
    SOURCE_FILE,
    DatasetHeader,
    read_classes,
)
from deal_core.dataset.image_files import DEPTH_PNG_FLAGS, PNG_FLAGS, check_image, refuse_outside
from deal_core.dataset.poses import POSES_FILE, poses_to_json
from deal_core.errors import DatasetError, UsageError
from deal_core.files import os_errors_as, replacing, replacing_folder
from deal_core.ownership import is_empty
from deal_core.structures import (
    CameraIntrinsics,
    ClassList,
    Float64Array,
    RgbdPair,
    TagState,
    UInt8Array,
    classes_to_json,
    require_same_classes,
)


class DatasetWriter:
    """Add recordings to a dataset, which is created with the first one.

    Each recording is written to a hidden folder and put in place when it is complete and on the disk; a failure leaves
    nothing. What a killed process left there is no obstacle.

    Args:
        path: folder of the dataset, new or existing.
        classes: classes, equal to those of an existing dataset.

    Raises:
        DatasetError: `path` is not a dataset, or its classes differ.
    """

    def __init__(self, path: Path | str, classes: ClassList) -> None:
        self.path = Path(path)
        self.classes = classes
        if (self.path / DATASET_FILE).exists():
            require_same_classes(classes, "the new recording", read_classes(self.path), f"dataset {self.path}")
        elif self.path.exists() and (not self.path.is_dir() or not is_empty(self.path)):
            raise DatasetError(
                f"{self.path} exists and is not a dataset: it has no {DATASET_FILE}; choose another folder"
            )

    def recording(
        self, name: str, *, overwrite: bool = False, color_format: ColorFormat = "png", jpeg_quality: int = 95
    ) -> RecordingFolder:
        """Return the folder of a new recording, a context manager.

        Args:
            name: name of the folder.
            overwrite: replace a recording of that name.
            color_format: "png", exact, or "jpeg", about a fifth of the size.
            jpeg_quality: 1 to 100.

        Raises:
            DatasetError: the recording exists already.
            UsageError: the name is not a plain folder name, or the colour format is unknown.
        """
        check_recording_name(name)
        if color_format not in get_args(ColorFormat) or not 1 <= jpeg_quality <= 100:
            raise UsageError(
                f"expected colour as png, or jpeg with a quality of 1 to 100, found {color_format} {jpeg_quality}"
            )
        final = self.path / RECORDINGS / name
        refuse_outside(self.path, final)
        if final.exists() and not overwrite:
            raise DatasetError(f"{final} exists already: replace it with --overwrite, or choose another --name")
        return RecordingFolder(self, final, None if color_format == "png" else jpeg_quality, overwrite=overwrite)

    def write_header(self) -> None:
        """Write dataset.yaml unless it exists."""
        file = self.path / DATASET_FILE
        if file.exists():
            return
        header = DatasetHeader(
            format="deal-dataset",
            version=1,
            classes=classes_to_json(self.classes),
            depth_unit="mm",
            provenance="made by `deal extract`; each recording's source.json says from what",
        )
        with replacing(file) as temporary:
            text = yaml.safe_dump(header.model_dump(), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")


class RecordingFolder:
    """One recording of a dataset under its temporary name; made by `DatasetWriter.recording`."""

    def __init__(self, dataset: DatasetWriter, final: Path, jpeg_quality: int | None, *, overwrite: bool) -> None:
        self._dataset = dataset
        self._final = final
        self._overwrite = overwrite
        self._flags = PNG_FLAGS if jpeg_quality is None else (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality)
        self._suffix = ".png" if jpeg_quality is None else ".jpg"
        self._stamps: set[int] = set()
        self.frames_written = 0

    def __enter__(self) -> RecordingFolder:
        self._writing = self._write_folder()
        with os_errors_as(DatasetError, f"{self._final} cannot be made"):
            self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with os_errors_as(DatasetError, f"{self._final} cannot be put in place"):
            self._writing.__exit__(*error)

    @contextmanager
    def _write_folder(self) -> Iterator[None]:
        with replacing_folder(self._final, overwrite=self._overwrite) as self._folder:
            with (self._folder / FRAMES_FILE).open("w", encoding="utf-8") as self._list:
                yield
            if not self.frames_written:
                raise DatasetError(f"{self._final}: no frame was written, so the folder was removed")
            self._dataset.write_header()

    def write(self, pair: RgbdPair, tags: TagState, segment: int, mask: UInt8Array | None = None) -> None:
        """Add a frame.

        Args:
            pair: colour and depth.
            tags: tags that name the dataset's classes.
            segment: number of the scene.
            mask: (H, W) class ids; None without a drawn mask.

        Raises:
            DatasetError: the stamp was written before, the images do not fit each other, or the disk is full.
            UsageError: a tag is not a class of the dataset.
        """
        tags.vector(self._dataset.classes)
        if pair.stamp_ns in self._stamps:
            raise DatasetError(f"{self._final}: a frame with stamp {pair.stamp_ns} ns was written before")
        check_image(self._final, "depth", pair.depth_mm, np.uint16, pair.color.shape[:2])
        line: dict[str, Any] = {
            "stamp_ns": pair.stamp_ns,
            "color": f"color/{pair.stamp_ns}{self._suffix}",
            "depth": f"depth/{pair.stamp_ns}.png",
            "tags": tags.to_json(),
            "segment": segment,
        }
        self._write_image(line["color"], cv2.cvtColor(pair.color, cv2.COLOR_RGB2BGR), self._flags)
        self._write_image(line["depth"], pair.depth_mm, DEPTH_PNG_FLAGS)
        if mask is not None:
            check_image(self._final, "mask", mask, np.uint8, pair.color.shape[:2])
            line["mask"] = f"masks/{pair.stamp_ns}.png"
            self._write_image(line["mask"], mask, PNG_FLAGS)
        with os_errors_as(DatasetError, f"{self._final / FRAMES_FILE} cannot be written"):
            self._list.write(json.dumps(line) + "\n")
        self._stamps.add(pair.stamp_ns)
        self.frames_written += 1

    def write_camera(self, camera: CameraIntrinsics, *, depth_unit: str = "mm", max_depth_m: float = 0.0) -> None:
        """Write the colour camera's intrinsics, and how the depth of the recording was read.

        Args:
            camera: intrinsics of the images.
            depth_unit: unit of the recorded depth; the dataset's is always millimetres.
            max_depth_m: greatest depth that was kept, metres; 0 is no limit.
        """
        content = {**asdict(camera), "depth_unit": depth_unit, "max_depth_m": max_depth_m}
        self._write_json(CAMERA_FILE, content)

    def write_poses(self, poses: Mapping[int, Float64Array]) -> None:
        """Write the poses of the camera, see `deal_core.dataset.poses`."""
        self._write_json(POSES_FILE, poses_to_json(poses))

    def write_source(self, source: Mapping[str, Any]) -> None:
        """Write the origin of the recording and what was left out, as plain JSON."""
        self._write_json(SOURCE_FILE, source)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        with os_errors_as(DatasetError, f"{self._final / name} cannot be written"):
            (self._folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _write_image(self, name: str, image: npt.NDArray[Any], flags: Sequence[int]) -> None:
        _, data = cv2.imencode(Path(name).suffix, image, flags)
        with os_errors_as(DatasetError, f"{self._final / name} cannot be written"):
            (self._folder / name).parent.mkdir(exist_ok=True)
            (self._folder / name).write_bytes(data.data)


def check_recording_name(name: str) -> None:
    """Raise `UsageError` if a folder name is empty, hidden, or contains a separator."""
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise UsageError(f"'{name}' cannot name a recording: expected a plain folder name, as in kitchen_1")
