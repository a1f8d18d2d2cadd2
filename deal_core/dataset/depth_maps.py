"""A folder of estimated depth maps: depth.json describes them, `<name>.png` is the map of an image.

    depth.json                  {"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 1.5e-05, "model": …}
    <recording>/<image>.png     16 bit; 0 is invalid, a count n means n * scale

The name of an image is its key in the dataset, `<recording>/<name>`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deal_core.dataset.image_files import DEPTH_PNG_FLAGS, check_image, inside, read_image
from deal_core.errors import DatasetError, UsageError, explain_invalid
from deal_core.files import os_errors_as, replacing
from deal_core.limits import read_bytes
from deal_core.ownership import is_empty, remove_leftovers
from deal_core.structures import DepthKind, Float32Array, UInt16Array, metres_to_depth

DEPTH_FILE = "depth.json"
_LARGEST = 65535
_ADVICE = "run `deal depth` again, which makes the maps that are missing"


@dataclass(frozen=True)
class DepthMaps:
    """The depth maps in a folder; made by `open`.

    Args:
        folder: folder with depth.json.
        kind: metres, or relative inverse depth, larger is nearer.
        scale: metres (or units of inverse depth) per count.
        model: description of the estimator.

    Example:
        >>> maps = DepthMaps.open(Path("depth"))  # doctest: +SKIP
        >>> depth = maps.load("VOC2012/2007_000032", (281, 500))  # doctest: +SKIP
    """

    folder: Path
    kind: DepthKind
    scale: float
    model: str

    @classmethod
    def open(cls, folder: Path | str) -> DepthMaps:
        """Read the description of a folder's maps.

        Raises:
            DatasetError: depth.json is missing, wrong, or has another version.
        """
        folder = Path(folder)
        file = folder / DEPTH_FILE
        try:
            found = _Description.model_validate_json(read_bytes(file, "description_bytes"))
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(
                f"{folder} contains no depth maps: expected {DEPTH_FILE} in it; make them with `deal depth`"
            ) from None
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error}") from None
        except ValidationError as error:
            raise DatasetError(f"{file}: {explain_invalid(error)}") from None
        return cls(folder, found.kind, found.scale, found.model)

    def path(self, name: str) -> Path:
        """Return the file of an image's map, whether it exists or not."""
        return inside(self.folder, f"{name}.png")

    def has(self, name: str) -> bool:
        """Return whether the map of an image exists."""
        return self.path(name).is_file()

    def load(self, name: str, size: tuple[int, int]) -> Float32Array:
        """Return the (H, W) float32 depth of an image, 0 where it is invalid.

        Args:
            name: key of the image, `<recording>/<name>`.
            size: (H, W) of the image.

        Raises:
            DatasetError: the map is missing or damaged, does not have 16 bit, or has another size.
        """
        file = self.path(name)
        counts = read_image(file, "depth map", _ADVICE)
        check_image(file, "depth map", counts, np.uint16, size)
        return counts.astype(np.float32) * np.float32(self.scale)


class DepthMapsWriter:
    """Write depth maps to a new folder, or continue one.

    Metric maps are stored in millimetres. Relative inverse depth has no scale: each map is divided by its largest value
    to use all 65535 counts.

    Args:
        folder: new or existing folder.
        kind: kind of the maps.
        model: description of the estimator.

    Raises:
        DatasetError: the folder contains maps of another kind or model, or other files.

    Example:
        >>> writer = DepthMapsWriter(Path("depth"), "inverse", "depth-anything-v2-base")  # doctest: +SKIP
        >>> writer.write("VOC2012/2007_000032", inverse_depth)  # doctest: +SKIP
    """

    def __init__(self, folder: Path | str, kind: DepthKind, model: str) -> None:
        folder = Path(folder)
        scale = 0.001 if kind == "metric" else 1 / _LARGEST
        self.maps = DepthMaps(folder, kind, scale, model)
        if (folder / DEPTH_FILE).exists():
            found = DepthMaps.open(folder)
            if found != self.maps:
                raise DatasetError(
                    f"{folder} contains {found.kind} depth of {found.model}, not {kind} depth of {model}: "
                    "choose another folder"
                )
            remove_leftovers(folder)
            return
        if folder.exists() and (not folder.is_dir() or not is_empty(folder)):
            raise DatasetError(f"{folder} exists and contains no depth maps: choose another folder")
        description = _Description(format="deal-depth", version=1, kind=kind, scale=scale, model=model)
        file = folder / DEPTH_FILE
        with os_errors_as(DatasetError, f"{file} cannot be written"), replacing(file) as temporary:
            temporary.write_text(json.dumps(description.model_dump(), indent=2) + "\n", encoding="utf-8")

    def write(self, name: str, depth: npt.NDArray[np.floating[Any]]) -> None:
        """Write the map of an image.

        Args:
            name: key of the image, `<recording>/<name>`.
            depth: (H, W) depth of the writer's kind. A metric value is valid if it is finite, above 0 and at most
                65.535 m. Inverse depth is valid if it is finite; 0 or less means infinitely far, and is
                stored as count 1.

        Raises:
            DatasetError: the file cannot be written.
            UsageError: `depth` has another shape.
        """
        if depth.ndim != 2 or not depth.size:
            raise UsageError(f"expected a depth map of shape (H, W), found {depth.shape}")
        file = self.maps.path(name)
        counts = metres_to_depth(depth) if self.maps.kind == "metric" else _inverse_counts(depth)
        with os_errors_as(DatasetError, f"{file} cannot be written"), replacing(file, synced=False) as temporary:
            temporary.write_bytes(cv2.imencode(".png", counts, DEPTH_PNG_FLAGS)[1].data)


class _Description(BaseModel):
    """The content of depth.json."""

    model_config = ConfigDict(strict=True)

    format: Literal["deal-depth"]
    version: Literal[1]
    kind: DepthKind
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    model: str


def _inverse_counts(depth: npt.NDArray[np.floating[Any]]) -> UInt16Array:
    values = np.asarray(depth, np.float64)
    known = np.isfinite(values)
    largest = float(values[known].max(initial=0.0)) or 1.0
    counts = np.clip(np.rint(values / largest * _LARGEST), 1, _LARGEST)
    return np.where(known, counts, 0).astype(np.uint16)
