"""Pictures of evaluated frames, in a folder with a list of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, Strict, ValidationError

from deal_core.drawing import depth_edge_picture, depth_picture, heat_overlay, mask_overlay
from deal_core.errors import EvaluationError, explain_invalid
from deal_core.evaluation.metrics import FrameScore
from deal_core.files import os_errors_as, replacing_folder
from deal_core.limits import read_bytes
from deal_core.masks.decide import winning_class
from deal_core.structures import (
    BoolArray,
    ClassList,
    Float32Array,
    Sample,
    UInt8Array,
)

PICTURE_FOLDER = "pictures"
PICTURE_LIST = "pictures.json"
PARTS = ("image", "depth", "edges", "cam", "prediction", "truth")
"""The kinds of pictures of a frame, in reading order."""


@dataclass(frozen=True, eq=False)
class PredictedFrame:
    """A frame and its predicted mask.

    Args:
        sample: The frame.
        mask: (H, W) ids, 255 where undecided.
        scores: (K, H, W) scores of the mask, in [0, 1]; None if there are none.
    """

    sample: Sample
    mask: UInt8Array
    scores: Float32Array | None = None


@dataclass(frozen=True)
class Picture:
    """The pictures of one frame in a run folder.

    Args:
        key: Key of the frame.
        iou: mIoU of the frame; nan without any labelled pixel.
        files: PNG file by part (one of `PARTS`), for all available parts.
    """

    key: str
    iou: float
    files: Mapping[str, Path]


def choose_frames(frames: Sequence[FrameScore], count: int = 12) -> tuple[str, ...]:
    """Return the keys of frames to show, worst first.

    Half of them are the worst frames; the others are spread evenly over the rest, up to the best frame. Frames with nan
    are ignored; equal frames are ordered by key.
    """
    ranked = sorted((f for f in frames if not math.isnan(f.iou)), key=lambda f: (f.iou, f.key))
    worst = ranked[: min((count + 1) // 2, len(ranked))]
    rest = ranked[len(worst) :]
    number = min(count - len(worst), len(rest))
    spread = [rest[round(i)] for i in np.linspace(0, len(rest) - 1, number + 1)[1:]]
    return tuple(frame.key for frame in [*worst, *spread])


def worst_frames(per_run: Sequence[Sequence[FrameScore]], count: int) -> tuple[str, ...]:
    """Return the keys of the frames with the lowest mIoU, on average and for each run.

    The order is: the worst frame on average, the worst frame of each run, the second worst frame on average, and so on,
    without repetitions. Frames with nan come last.

    Args:
        per_run: Frame scores of each run; the runs may have different frames.
        count: Largest number of keys.

    Example:
        >>> ours, theirs = [FrameScore("a", 0.2), FrameScore("b", 0.3)], [FrameScore("a", 0.9), FrameScore("b", 0.7)]
        >>> worst_frames([ours, theirs], 2)
        ('b', 'a')
    """
    keys = list(dict.fromkeys(score.key for scores in per_run for score in scores))
    figures = [{score.key: score.iou for score in scores} for scores in per_run]
    average = {key: _mean([of_run.get(key, math.nan) for of_run in figures]) for key in keys}
    orders = [
        [key for key, _ in sorted(of.items(), key=lambda entry: (math.isnan(entry[1]), entry[1]))]
        for of in (average, *figures)
    ]
    chosen: dict[str, None] = {}
    for place in range(len(keys)):
        chosen.update(dict.fromkeys(order[place] for order in orders if place < len(order)))
    return tuple(chosen)[:count]


class PictureWriter:
    """Context manager that writes pictures of frames into `<run>/pictures`: `<n>_<part>.png` and pictures.json.

    On success, the pictures replace those of an earlier evaluation; on failure, the earlier pictures stay. Entering
    raises `EvaluationError` if the folder holds something else than pictures.

    Args:
        run: Run folder, made if missing.
        classes: Names and colours of the masks.

    Example:
        with PictureWriter(run, classes) as pictures:
            pictures.add("kitchen/12", 0.41, image=image, prediction=prediction, truth=mask, depth=depth)
    """

    def __init__(self, run: Path, classes: ClassList) -> None:
        self.classes = classes
        self._folder = run / PICTURE_FOLDER
        self._entries: list[dict[str, Any]] = []

    def __enter__(self) -> PictureWriter:
        if self._folder.exists() and not (self._folder / PICTURE_LIST).is_file():
            raise EvaluationError(
                f"{self._folder} holds no {PICTURE_LIST}, so it is not from an evaluation and will not be replaced: "
                "choose another run folder"
            )
        self._writing = self._write_folder()
        self._writing.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._writing.__exit__(*raised)

    def add(
        self,
        key: str,
        iou: float,
        *,
        image: UInt8Array,
        prediction: UInt8Array,
        truth: UInt8Array | None = None,
        depth: Float32Array | None = None,
        depth_valid: BoolArray | None = None,
        scores: npt.NDArray[Any] | None = None,
        tags: npt.NDArray[Any] | None = None,
    ) -> None:
        """Write the pictures of one frame.

        Args:
            key: Key of the frame.
            iou: mIoU of the frame.
            image: (H, W, 3) uint8 RGB.
            prediction: (H, W) ids.
            truth: (H, W) ids; 255 is unlabelled.
            depth: (H, W) metres, for pictures of the depth and of its edges, see `depth_edge_picture`.
            depth_valid: (H, W) bool mask of measured depth; default: finite and positive depth.
            scores: (K, H, W) CAMs in [0, 1], for a heat map of the strongest present class.
            tags: (K,) tags as in `winning_class`; default: all classes.

        Raises:
            ValueError: an array has another height or width than the image.
        """
        given = {"prediction": prediction, "truth": truth, "depth": depth, "depth_valid": depth_valid}
        for what, array in (*given.items(), ("scores", None if scores is None else scores[0])):
            if array is not None and array.shape != image.shape[:2]:
                raise ValueError(f"expected the {what} in the image's size {image.shape[:2]}, found {array.shape}")
        parts = {"image": image, "prediction": mask_overlay(image, prediction, self.classes)}
        if truth is not None:
            parts["truth"] = mask_overlay(image, truth, self.classes)
        if depth is not None:
            parts["depth"] = depth_picture(depth, depth_valid)
            parts["edges"] = depth_edge_picture(depth, depth_valid)
        if scores is not None:
            parts["cam"] = heat_overlay(image, winning_class(scores, tags)[0])
        index, files = len(self._entries), {}
        for part in PARTS:
            if part in parts:
                files[part] = f"{index}_{part}.png"
                _write_png(self._temporary / files[part], parts[part])
        self._entries.append({"key": key, "iou": iou if math.isfinite(iou) else None, "files": files})

    @contextmanager
    def _write_folder(self) -> Iterator[None]:
        failing = os_errors_as(EvaluationError, f"{self._folder} cannot be written")
        with failing, replacing_folder(self._folder, overwrite=True) as self._temporary:
            yield
            listing = {"format": "deal-pictures", "version": 1, "pictures": self._entries}
            (self._temporary / PICTURE_LIST).write_text(json.dumps(listing, indent=1) + "\n", "utf-8")


def read_pictures(run: Path) -> tuple[Picture, ...]:
    """Return the pictures of a run folder, worst first; empty for a run without pictures.

    Raises:
        EvaluationError: the list cannot be read, names a file outside the folder, or a file is missing.
    """
    folder = run / PICTURE_FOLDER
    listing = folder / PICTURE_LIST
    if not listing.is_file():
        return ()
    try:
        found = _Listing.model_validate_json(read_bytes(listing, "description_bytes"))
        pictures = [_read_entry(folder, entry) for entry in found.pictures]
    except (OSError, ValueError) as error:
        reason = explain_invalid(error) if isinstance(error, ValidationError) else error
        raise EvaluationError(f"{listing}: {reason}. Write it again with `deal evaluate`") from None
    return tuple(sorted(pictures, key=lambda p: (math.isnan(p.iou), p.iou)))


def draw_frames(run: Path, classes: ClassList, frames: Iterable[PredictedFrame], scores: Sequence[FrameScore]) -> None:
    """Write the pictures of frames into a run folder, in their order; `scores` may hold the scores of more frames."""
    iou = {score.key: score.iou for score in scores}
    with PictureWriter(run, classes) as pictures:
        for frame in frames:
            sample = frame.sample
            pictures.add(
                sample.key,
                iou[sample.key],
                image=sample.image,
                prediction=frame.mask,
                truth=sample.mask,
                depth=sample.depth if sample.depth_valid.any() else None,
                depth_valid=sample.depth_valid,
                scores=frame.scores,
            )


class _Entry(BaseModel):
    key: str
    iou: Annotated[float, Strict(), Field(allow_inf_nan=False)] | None
    files: dict[str, str]


class _Listing(BaseModel):
    format: Literal["deal-pictures"]
    version: Literal[1]
    pictures: list[_Entry]


def _read_entry(folder: Path, entry: _Entry) -> Picture:
    for part, name in entry.files.items():
        if part not in PARTS or Path(name).name != name:
            raise ValueError(f"expected a picture of {', '.join(PARTS)} in {folder}, found {part}: {name!r}")
        if not (folder / name).is_file():
            raise ValueError(f"the picture {name} is missing")
    files = {part: folder / name for part, name in entry.files.items()}
    return Picture(entry.key, math.nan if entry.iou is None else entry.iou, files)


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not nan; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _write_png(path: Path, picture: UInt8Array) -> None:
    """Write an RGB picture (H, W, 3) as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: cannot encode a picture of shape {picture.shape}")
    path.write_bytes(data.tobytes())
