"""What every reader returns: the names in a source, its images, and the layers of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deal_core.dataset.coco import box_of
from deal_core.dataset.dataset import FrameRecord
from deal_core.errors import DatasetError
from deal_core.limits import refuse_over
from deal_core.structures import BoolArray

BACKGROUND_NAME, UNLABELLED_NAME = "background", "unlabelled"
"""Names that every source may use; a class of the dataset with such a name comes first."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The pixels of one object, or of all pixels with one name.

    Args:
        label: Name in the source.
        place: Rows and columns of the box around them.
        part: (h, w) bool, the pixels in the box.
    """

    label: str
    place: tuple[slice, slice]
    part: BoolArray

    @classmethod
    def of(cls, label: str, covered: npt.NDArray[np.bool_]) -> Layer:
        """Return the layer of the pixels that are set in (H, W)."""
        place = box_of(covered)
        return cls(label, place, covered[place].copy())

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return int(self.part.sum())


class LabelSource(Protocol):
    """Masks in the format of one tool; each method raises `DatasetError` for what cannot be read."""

    @property
    def path(self) -> Path:
        """The file or folder that was opened."""
        ...

    @property
    def images(self) -> Sequence[str]:
        """The names of the images that have a mask, as the source writes them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for a person, such as the number of points and lines that have no area."""
        ...

    def labels(self, image: str) -> set[str]:
        """Return the names that the mask of an image uses."""
        ...

    def layers(self, image: str, frame: FrameRecord, size: tuple[int, int]) -> list[Layer]:
        """Return the layers of an image, the lowest first.

        Args:
            image: Name of the image in the source.
            frame: The frame that it is.
            size: (H, W) of the frame.
        """
        ...


def stacked(layers: Iterable[Layer], frame: FrameRecord, path: Path, *, smaller_on_top: bool) -> list[Layer]:
    """Return layers in the order in which they are drawn, the lowest first.

    Args:
        layers: Layers in the order of the source.
        frame: The frame, for the message.
        path: The source, for the message.
        smaller_on_top: Whether a smaller one covers a larger one, as where a format has no order.

    Raises:
        DatasetError: the boxes around them have more pixels than the limit.
    """
    found: list[Layer] = []
    kept = 0
    for layer in layers:
        kept += layer.part.size
        refuse_over("object_pixels", kept, f"pixels of the objects of image {frame.name}", refused(path))
        found.append(layer)
    return sorted(found, key=lambda layer: -layer.pixels) if smaller_on_top else found


def refused(path: Path) -> Callable[[str], DatasetError]:
    """Return what makes an error about a file from a sentence."""
    return lambda sentence: DatasetError(f"{path}: {sentence}")
