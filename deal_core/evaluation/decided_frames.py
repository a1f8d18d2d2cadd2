"""The decisions of frames at every threshold, kept on disk: masks at any threshold without another network pass."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deal_core.errors import EvaluationError
from deal_core.evaluation.frame_file import FrameFile
from deal_core.evaluation.metrics import checked_mask, require_same_shape
from deal_core.masks.decide import threshold_bins, winning_class
from deal_core.structures import Float32Array, Float64Array, Sample, UInt8Array
from deal_core.text_formats import parse_json

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
        sums: Sums of the threshold rule over this frame.
    """

    key: str
    truth: UInt8Array
    tags: Float32Array
    ids: UInt8Array
    bins: UInt8Array
    sums: tuple[npt.NDArray[Any], ...] = ()

    def mask(self, place: int) -> UInt8Array:
        """Return the mask (H, W) at the threshold with this index; background wins a tie."""
        return np.where(self.bins > place, self.ids, np.uint8(0))


class DecidedFrames:
    """Frames on disk, compressed.

    The winning class of a pixel and the number of thresholds below its score give its mask at each of the thresholds,
    exactly as `deal_core.masks.decide.predict_mask` does: two bytes for each pixel in place of K scores. With the sums
    of the threshold rule, a record is all that an evaluation takes from a frame, so those of several processes merge
    exactly.

    Args:
        thresholds: (T,) increasing thresholds, at most 255.
        path: File for the frames; frames that it has already are kept. None: a file that ends with the process.
        about: What the decisions depend on besides the frames, such as the model. Those of another are dropped.
        others: Files of other processes, which have ended.

    Raises:
        EvaluationError: another process writes one of the files, or it cannot be opened.
    """

    def __init__(
        self,
        thresholds: Float64Array,
        path: Path | None = None,
        about: object = None,
        others: Iterable[Path] = (),
    ) -> None:
        if len(thresholds) > 255:
            raise ValueError(f"expected at most 255 thresholds, found {len(thresholds)}")
        self.thresholds = thresholds
        described = json.dumps([str(about), thresholds.tolist()])
        self._own = FrameFile(path, described)
        self._others = [FrameFile(other, described, may_write=False) for other in others]
        self.foreign = sum(not other.is_same for other in self._others)
        """The number of files of other processes with decisions about something else."""

    def keep(self, scores: Array, allowed: Array | None, sample: Sample, sums: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Keep a frame.

        Args:
            scores: (K, H, W) scores in [0, 1].
            allowed: (K,) with 1 for the classes that may be predicted, as for `winning_class`.
            sample: The frame, with its true mask.
            sums: Sums of the threshold rule over this frame, int64 or float64.

        Raises:
            ValueError: the mask has another shape or unknown ids.
            EvaluationError: the disk is full.
        """
        best, ids = winning_class(scores, allowed)
        truth = checked_mask(_mask(sample), len(scores), "mask").astype(np.uint8)
        require_same_shape(best.shape, truth.shape)
        bins = threshold_bins(best, self.thresholds).astype(np.uint8)
        arrays: list[npt.NDArray[Any]] = [truth, sample.tags, ids, bins, *sums]
        self._own.append(sample.key, _checksum(sample), _packed(arrays))

    def has(self, sample: Sample) -> bool:
        """Return whether this frame is kept, with the same image, depth, tags and true mask."""
        file = self._file_of(sample.key)
        return file is not None and file.checksum(sample.key) == _checksum(sample)

    def may_have(self, key: str) -> bool:
        """Return whether a frame with this key is kept."""
        return self._file_of(key) is not None

    def frames(self, keys: Iterable[str]) -> Iterator[DecidedFrame]:
        """Yield the frames with these keys."""
        for key in keys:
            file = self._file_of(key)
            assert file is not None
            truth, tags, ids, bins, *sums = _unpacked(file.read(key))
            yield DecidedFrame(key, truth, tags, ids, bins, tuple(sums))

    def place(self, threshold: float) -> int:
        """Return the index of a threshold.

        Raises:
            ValueError: it is none of the thresholds.
        """
        index = int(np.searchsorted(self.thresholds, threshold))
        if index == len(self.thresholds) or self.thresholds[index] != threshold:
            raise ValueError(f"expected one of the kept thresholds, found {threshold}")
        return index

    def close(self) -> None:
        """Close the files."""
        for file in (self._own, *self._others):
            file.close()

    def _file_of(self, key: str) -> FrameFile | None:
        return next((file for file in (self._own, *self._others) if key in file.keys), None)


def _packed(arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """Return a line of JSON with type and shape of each array, and their values."""
    kinds = json.dumps([[array.dtype.str, array.shape] for array in arrays]).encode() + b"\n"
    return kinds + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _unpacked(content: bytes) -> list[npt.NDArray[Any]]:
    start, arrays = content.find(b"\n") + 1, []
    try:
        for kind, shape in parse_json(content[:start].decode()):
            array: npt.NDArray[Any] = np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
            start += array.nbytes
            arrays.append(array)
        if len(arrays) < 4:
            raise ValueError(f"expected at least 4 arrays, found {len(arrays)}")
    except (ValueError, TypeError, OverflowError) as error:
        raise EvaluationError(f"a kept decision is damaged ({error}): delete the folder evaluation_frames") from None
    return arrays


def _mask(sample: Sample) -> UInt8Array:
    assert sample.mask is not None
    return sample.mask


def _checksum(sample: Sample) -> int:
    """Return a checksum of all that an evaluation reads of a frame."""
    total = 0
    for array in (sample.image, sample.depth, sample.depth_valid, sample.tags, sample.mask):
        if array is not None:
            total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return total
