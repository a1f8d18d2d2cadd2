"""Save one frame with everything that a bug report needs in a folder.

color.cdr, depth.cdr    the received messages, serialised
color.png, depth.png    the same as images (depth in millimetres, 16 bit), if they can be decoded
mask.png                class ids, if the frame did not fail
parameters.yaml         parameters of the node; usable with --params-file
diagnostics.json        content of /diagnostics
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from rclpy.serialization import serialize_message

from deal_core.errors import DealError
from deal_core.files import replacing_folder
from deal_core.recording.image_encodings import ImageFormatError
from deal_ros.diagnostics.status import Status
from deal_ros.input.conversions import color_to_rgb, image_to_depth_mm
from deal_ros.node.paths import path_of
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.segmentation.pipeline import LastFrame

_NAMES = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]_*"


class SnapshotError(DealError):
    """A snapshot cannot be written."""


def save_snapshot(
    last: LastFrame,
    parameters: SegmentationParameters,
    statuses: Sequence[Status],
    taken: datetime,
    earlier: Sequence[Path] = (),
) -> Path:
    """Write a snapshot in `parameters.snapshot_dir` and return its folder, which appears only when it is complete.

    Args:
        last: the frame and its result.
        parameters: parameters of the node.
        statuses: diagnostic statuses of the node.
        taken: time of the snapshot; the folder is named after it.
        earlier: snapshots of this node, which count even if they are in another folder.

    Raises:
        SnapshotError: the folder cannot be written, or there are too many snapshots already.
    """
    parent = path_of(parameters.snapshot_dir).absolute()
    final = parent / f"{taken:%Y-%m-%d_%H-%M-%S_%f}"
    try:
        _check_limits({*parent.glob(_NAMES), *(path for path in earlier if path.is_dir())}, parameters)
        with replacing_folder(final) as folder:
            _write(folder, last, parameters, statuses)
    except OSError as error:
        raise SnapshotError(
            f"parameter 'snapshot_dir': cannot write to {parent} ({error.strerror or error}); set it to another folder"
        ) from None
    return final


def _check_limits(snapshots: set[Path], parameters: SegmentationParameters) -> None:
    size = sum(file.stat().st_size for folder in snapshots for file in folder.iterdir())
    limits = {
        "snapshot_limit": (len(snapshots), parameters.snapshot_limit, "snapshots"),
        "snapshot_limit_mib": (size // 2**20, parameters.snapshot_limit_mib, "MiB of snapshots"),
    }
    for name, (found, limit, what) in limits.items():
        if found >= limit:
            raise SnapshotError(
                f"parameter '{name}': {parameters.snapshot_dir} has {found} {what}, and the limit is {limit}: remove "
                "some, or start the node with a higher limit"
            )


def _write(folder: Path, last: LastFrame, parameters: SegmentationParameters, statuses: Sequence[Status]) -> None:
    messages = {"color": last.frame.color, "depth": last.frame.depth}
    for name, message in messages.items():
        if message is not None:
            (folder / f"{name}.cdr").write_bytes(serialize_message(message))
    for name, pixels in _pictures(last, parameters).items():
        _write_png(folder / f"{name}.png", pixels)
    values = {name: ",".join(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(parameters).items()}
    (folder / "parameters.yaml").write_text(
        yaml.safe_dump({"/**": {"ros__parameters": values}}, sort_keys=False), encoding="utf-8"
    )
    found = [
        {"name": s.concern, "level": s.level.name, "message": s.message, "values": dict(s.values)} for s in statuses
    ]
    (folder / "diagnostics.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _pictures(last: LastFrame, parameters: SegmentationParameters) -> dict[str, npt.NDArray[Any]]:
    """Return the images that can be decoded; an image that cannot be decoded may be the reason for the snapshot."""
    pictures: dict[str, npt.NDArray[Any]] = {}
    try:
        pictures["color"] = color_to_rgb(last.frame.color)
        if last.frame.depth is not None:
            pictures["depth"] = image_to_depth_mm(last.frame.depth, parameters.depth_values)
    except ImageFormatError:
        pass
    if last.result is not None:
        pictures["mask"] = last.result.segmentation.mask
    return pictures


def _write_png(file: Path, pixels: npt.NDArray[Any]) -> None:
    import cv2

    if not cv2.imwrite(str(file), np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)):
        raise OSError(f"{file.name} was not written")
