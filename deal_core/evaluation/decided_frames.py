"""The decisions of frames at every threshold, kept on disk: masks at any threshold without another network pass."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deal_core.errors import EvaluationError
from deal_core.masks.decide import threshold_bins, winning_class
from deal_core.structures import Float32Array, Float64Array, UInt8Array

if TYPE_CHECKING:
    from deal_core.structures import Array


@dataclass(frozen=True, eq=False)
class DecidedFrame:
    """A frame as it was kept.

    Args:
        key: Key of the frame.
        truth: (H, W) ids, 255 where unlabelled.
        tags: (K,) tags of the frame.
        ids: (H, W) ids of the winning class of each pixel.
        bins: (H, W) number of thresholds below its score.
    """

    key: str
    truth: UInt8Array
    tags: Float32Array
    ids: UInt8Array
    bins: UInt8Array

    def mask(self, place: int) -> UInt8Array:
        """Return the mask (H, W) at the threshold with this index; background wins a tie."""
        return np.where(self.bins > place, self.ids, np.uint8(0))


class DecidedFrames:
    """Frames on disk, compressed, in a file without a name that ends with the process.

    The winning class of a pixel and the number of thresholds below its score give its mask at each of the thresholds,
    exactly as `deal_core.masks.decide.predict_mask` does: two bytes for each pixel in place of K scores.

    Args:
        thresholds: (T,) increasing thresholds, at most 255.
    """

    def __init__(self, thresholds: Float64Array) -> None:
        if len(thresholds) > 255:
            raise ValueError(f"expected at most 255 thresholds, found {len(thresholds)}")
        self.thresholds = thresholds
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self._entries: list[tuple[str, Float32Array, tuple[int, ...], int]] = []

    def keep(self, scores: Array, allowed: Array | None, key: str, truth: UInt8Array, tags: Float32Array) -> None:
        """Keep a frame.

        Args:
            scores: (K, H, W) scores in [0, 1].
            allowed: (K,) with 1 for the classes that may be predicted, as for `winning_class`.
            key: Key of the frame.
            truth: (H, W) true ids.
            tags: (K,) tags of the frame.

        Raises:
            EvaluationError: the folder for temporary files is full.
        """
        best, ids = winning_class(scores, allowed)
        bins = threshold_bins(best, self.thresholds).astype(np.uint8)
        packed = zlib.compress(np.stack([truth, ids, bins]).tobytes(), level=1)
        try:
            self._file.write(packed)
        except OSError as error:
            raise EvaluationError(
                f"{tempfile.gettempdir()}: the decisions cannot be kept there ({error}); set TMPDIR to another folder"
            ) from error
        self._entries.append((key, tags, truth.shape, len(packed)))

    def frames(self) -> Iterator[DecidedFrame]:
        """Yield the frames in the order in which they were kept."""
        self._file.seek(0)
        for key, tags, shape, size in self._entries:
            planes: npt.NDArray[np.uint8] = np.frombuffer(zlib.decompress(self._file.read(size)), np.uint8)
            truth, ids, bins = planes.reshape(3, *shape)
            yield DecidedFrame(key, truth, tags, ids, bins)

    def place(self, threshold: float) -> int:
        """Return the index of a threshold.

        Raises:
            ValueError: it is none of the thresholds.
        """
        index = int(np.searchsorted(self.thresholds, threshold))
        if index == len(self.thresholds) or self.thresholds[index] != threshold:
            raise ValueError(f"expected one of the kept thresholds, found {threshold}")
        return index
