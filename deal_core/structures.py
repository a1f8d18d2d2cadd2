"""The data types that all packages share: classes, tags, camera, frames, samples."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
import numpy.typing as npt

from deal_core.errors import DatasetError, UsageError, nearest_hint, short

if TYPE_CHECKING:
    import torch

    Array = npt.NDArray[Any] | torch.Tensor

BACKGROUND = 0
"""Mask value of pixels that belong to no class."""
UNLABELLED = 255
"""Mask value of unlabelled pixels; ignored wherever masks are compared."""
MAX_CLASSES = 254

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the RGB colours of ImageNet, in [0, 1]."""

UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

DepthKind = Literal["metric", "inverse"]
"""Kind of a depth map: metres; or relative inverse depth of unknown scale, larger is nearer."""


@dataclass(frozen=True)
class ClassList:
    """The K foreground classes in order; class `names[i]` has id `i + 1` in masks, 0 is background.

    Args:
        names: unique, non-empty class names.
        colors: one RGB colour for each class, each component 0..255; made from the number of classes if empty.

    Raises:
        DatasetError: no class, too many, a repeated or empty name, or a colour list of another length.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names)
        object.__setattr__(self, "names", names)
        if not 1 <= len(names) <= MAX_CLASSES:
            raise DatasetError(f"expected 1 to {MAX_CLASSES} classes, found {len(names)}")
        if any(not isinstance(n, str) or not n.strip() or n != n.strip() for n in names):
            raise DatasetError(
                f"class names must be non-empty and without outer spaces, found {short(list(names), 300)}"
            )
        if len(set(names)) != len(names):
            repeated = sorted({n for n in names if names.count(n) > 1})
            raise DatasetError(f"class names must be unique, found {repeated} more than once")
        colors = tuple((int(r), int(g), int(b)) for r, g, b in self.colors) or distinct_colors(len(names))
        if len(colors) != len(names):
            raise DatasetError(f"expected {len(names)} class colours, found {len(colors)}")
        if any(not 0 <= c <= 255 for color in colors for c in color):
            raise DatasetError(f"class colours are RGB 0..255, found {colors}")
        object.__setattr__(self, "colors", colors)

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, name: str) -> int:
        """Return the mask id (1..K) of a class name.

        Raises:
            UsageError: the name is not in the list; the message suggests the nearest one.
        """
        try:
            return self.names.index(name) + 1
        except ValueError:
            raise UsageError(
                f"unknown class '{name}': expected one of {', '.join(self.names)}.{nearest_hint(name, self.names)}"
            ) from None

    def ids_in(self, other: ClassList) -> UInt8Array:
        """Return (256,) the id in masks of `other` of each mask value: by name, 0 for a class that it does not have.

        >>> ClassList(("mug", "drill")).ids_in(ClassList(("drill",)))[[0, 1, 2, 255]].tolist()
        [0, 0, 1, 255]
        """
        ids = np.zeros(256, np.uint8)
        ids[UNLABELLED] = UNLABELLED
        for number, name in enumerate(self.names, 1):
            ids[number] = other.id_of(name) if name in other.names else BACKGROUND
        return ids

    def palette(self) -> UInt8Array:
        """Return the (256, 3) RGB colour of every mask value; background black, unlabelled grey."""
        table = np.zeros((256, 3), np.uint8)
        table[1 : len(self) + 1] = self.colors
        table[UNLABELLED] = 128
        return table


def classes_to_json(classes: ClassList) -> list[dict[str, Any]]:
    """Return `[{"name": "mug", "color": [255, 0, 0]}, …]`."""
    return [{"name": name, "color": list(color)} for name, color in zip(classes.names, classes.colors, strict=True)]


def classes_from_json(value: Any) -> ClassList:
    """Read the form of `classes_to_json`; all colours may be left out.

    Raises:
        DatasetError: another form, or classes that `ClassList` refuses.
    """
    try:
        names = tuple(entry["name"] for entry in value)
        colors = tuple(tuple(entry["color"]) for entry in value if "color" in entry)
        return ClassList(names, colors)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f'expected classes like [{{"name": "mug", "color": [255, 0, 0]}}], found {short(value)} '
            f"({str(error)[:200]})"
        ) from None


def require_same_classes(found: ClassList, where: str, expected: ClassList, expected_where: str) -> None:
    """Refuse classes with other names or another order, on which masks and tags depend; colours may differ.

    Raises:
        DatasetError: the names or their order differ.
    """
    if found.names != expected.names:
        raise DatasetError(
            f"the classes of {where} are [{', '.join(found.names)}], the classes of {expected_where} are "
            f"[{', '.join(expected.names)}]: names and order must be the same"
        )


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return `count` RGB colours, evenly spread in hue, alternating in brightness."""
    colors = (colorsys.hsv_to_rgb((i * 0.618034) % 1.0, 0.85, 1.0 if i % 2 == 0 else 0.75) for i in range(count))
    return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in colors)


class TagMarker(str, Enum):
    """What the set of present tags says about the classes it does not name."""

    COMPLETE = "complete"
    """The others are absent."""
    PARTIAL = "partial"
    """The others are unknown, unless listed as absent."""
    IGNORE = "ignore"
    """Nothing is known: the operator is moving things."""


@dataclass(frozen=True)
class TagState:
    """Image-level tags as a person gives them: the visible classes, and what is known about the others.

    Raises:
        UsageError: a class is both present and absent.
    """

    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    marker: TagMarker = TagMarker.PARTIAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "present", tuple(sorted(set(self.present))))
        object.__setattr__(self, "absent", tuple(sorted(set(self.absent))))
        object.__setattr__(self, "marker", TagMarker(self.marker))
        both = set(self.present) & set(self.absent)
        if both:
            raise UsageError(f"tags cannot be present and absent at once: {sorted(both)}")

    def vector(self, classes: ClassList) -> Float32Array:
        """Return (K,) tags: 1 present, 0 absent, nan unknown.

        Raises:
            UsageError: a tag is not in the class list.
        """
        present = [classes.id_of(name) - 1 for name in self.present]
        absent = [classes.id_of(name) - 1 for name in self.absent]
        tags = np.full(len(classes), np.nan, np.float32)
        if self.marker is TagMarker.IGNORE:
            return tags
        if self.marker is TagMarker.COMPLETE:
            tags[:] = 0.0
        tags[absent] = 0.0
        tags[present] = 1.0
        return tags

    def for_classes(self, classes: ClassList, others: ClassList) -> TagState:
        """Return what these tags for `classes` say about `others`; a class that is not among `classes` is unknown."""
        if self.marker is TagMarker.IGNORE:
            return TagState(marker=TagMarker.IGNORE)
        known = zip(classes.names, self.vector(classes), strict=True)
        shared = [(name, value) for name, value in known if name in others.names]
        return TagState(
            present=tuple(name for name, value in shared if value == 1),
            absent=tuple(name for name, value in shared if value == 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that frames.jsonl and the tags topic contain."""
        return {"present": list(self.present), "absent": list(self.absent), "marker": self.marker.value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TagState:
        """Read the JSON form of `to_json`.

        Raises:
            DatasetError: a key is missing or a value has another type.
        """
        try:
            present, absent = value["present"], value.get("absent", [])
            if not all(isinstance(n, str) for n in [*present, *absent]):
                raise TypeError("tag names must be strings")
            return cls(tuple(present), tuple(absent), TagMarker(value.get("marker", "partial")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                'expected tags like {"present": ["mug"], "absent": [], "marker": "complete"}, '
                f"found {short(value)} ({str(error)[:200]})"
            ) from None


@dataclass(frozen=True)
class CameraIntrinsics:
    """A pinhole camera as in sensor_msgs/CameraInfo; lengths in pixels, z forward, x right, y down."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    distortion_model: str = "plumb_bob"
    frame_id: str = "camera_color_optical_frame"
    # When pydantic reads a camera from a file, an unknown key is an error, and so is nan.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    def resized(self, width: int, height: int) -> CameraIntrinsics:
        """Return the intrinsics after resizing the image to (height, width); the centre of pixel (0, 0) is (0, 0)."""
        x, y = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * x,
            fy=self.fy * y,
            cx=(self.cx + 0.5) * x - 0.5,
            cy=(self.cy + 0.5) * y - 0.5,
        )


@dataclass(frozen=True, eq=False)
class RgbdPair:
    """One colour image and the depth aligned to it.

    Args:
        stamp_ns: header stamp of the colour image, nanoseconds.
        color: (H, W, 3) uint8 RGB.
        depth_mm: (H, W) uint16 millimetres along the optical axis, 0 = no measurement.
    """

    stamp_ns: int
    color: UInt8Array
    depth_mm: UInt16Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One training or evaluation image in memory.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 of the dataset's `depth_kind`; 0 where invalid.
        depth_valid: (H, W) bool, see `valid_depth`.
        tags: (K,) float32 in {1 present, 0 absent, nan unknown}.
        key: `<recording>/<name>`, unique in a dataset.
        mask: (H, W) uint8 class ids (0 background, 255 ignore), for evaluation only; None without a mask.
    """

    image: UInt8Array
    depth: Float32Array
    depth_valid: BoolArray
    tags: Float32Array
    key: str
    mask: UInt8Array | None = None


@overload
def valid_depth(depth: npt.NDArray[Any], given: BoolArray | None = None) -> BoolArray: ...
@overload
def valid_depth(depth: torch.Tensor, given: torch.Tensor | None = None) -> torch.Tensor: ...
def valid_depth(depth: Any, given: Any = None) -> Any:
    """Return where depth is valid: finite and above 0.

    Args:
        depth: numpy array or tensor of any shape and unit.
        given: bool of the same shape; pixels that are False here are invalid, too.

    Example:
        >>> valid_depth(np.array([0.5, 0.0, -1.0, np.nan, np.inf])).tolist()
        [True, False, False, False, False]
    """
    valid = (depth > 0) & (depth < float("inf"))  # nan fails both comparisons
    return valid if given is None else valid & given


def depth_to_metres(depth_mm: UInt16Array) -> tuple[Float32Array, BoolArray]:
    """Return depth in metres (float32) and where it is valid, from millimetres with 0 = invalid."""
    metres = depth_mm.astype(np.float32) / np.float32(1000.0)
    return metres, valid_depth(metres)


def pose_matrix(translation: Sequence[float], quaternion: Sequence[float]) -> Float64Array:
    """Return the (4, 4) matrix of a translation (x, y, z) and a rotation (x, y, z, w), which need not be of length 1.

    >>> pose_matrix((1, 2, 3), (0, 0, 1, 1)).round(9).tolist()
    [[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
    """
    x, y, z, w = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    pose[:3, 3] = translation
    return pose


def metres_to_depth(depth_m: npt.NDArray[np.floating[Any]]) -> UInt16Array:
    """Return millimetres (uint16, 0 = invalid) from metres; nan, infinite, negative or beyond 65.535 m is 0."""
    with np.errstate(invalid="ignore"):
        millimetres = np.rint(np.asarray(depth_m, np.float64) * 1000.0)
        storable = valid_depth(millimetres) & (millimetres <= 65535)
    return np.where(storable, millimetres, 0).astype(np.uint16)
