"""Folders of CAMs and pseudo masks; an interrupted run can resume."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deal_core.array_files import read_arrays
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.image_files import first_few, read_ids
from deal_core.devices import resolve_device
from deal_core.errors import DatasetError, UsageError, explain_invalid
from deal_core.files import os_errors_as, owning, replacing, replacing_folder
from deal_core.limits import read_bytes, refuse_over
from deal_core.masks.decide import IgnoreBand, pseudo_mask
from deal_core.masks.known import KnownMasks, with_known
from deal_core.masks.other_views import OtherViews
from deal_core.masks.refine.refinement import refinement_name
from deal_core.masks.score_dataset import CamSettings, ScoredFrame, check_use, decision_threshold, score_frames
from deal_core.models.model_file import LoadedModel, Threshold
from deal_core.ownership import remove_left_of, remove_leftovers
from deal_core.structures import UNLABELLED, ClassList, Float32Array, UInt8Array

CAMS_FILE = "cams.json"
IMPORTED = "imported"
"""The rule of the threshold of masks that another tool made."""


def write_cams(
    model: LoadedModel,
    dataset: Dataset,
    out: Path,
    settings: CamSettings | None = None,
    *,
    threshold: Threshold | None = None,
    ignore_band: IgnoreBand | None = None,
    known: KnownMasks | None = None,
    views: OtherViews | None = None,
) -> Iterator[bool]:
    """Write scores and pseudo mask of each frame; yield for each frame whether its files were written now.

    `<out>/<recording>/<name>.npz` holds the refined `scores` (P, h, w), from [0, 1] to uint8, and `classes` (P,), the
    mask ids of the P present classes. The size of the scores is the input size of the model or, with the size "image",
    a quarter of the image along each side. `<name>.png` is the mask (H, W), made from the full-size scores.
    `<out>/cams.json` describes model and settings. Frames with both files are skipped, so an interrupted run resumes.

    Args:
        model: Model that makes the scores.
        dataset: Frames to score.
        out: Folder to write.
        settings: Settings of the scores.
        threshold: Threshold of the masks; default: `decision_threshold`.
        ignore_band: Two thresholds that replace `threshold`; pixels between them become 255.
        known: Masks that the scores give way to, such as those of taps; None changes nothing.
        views: Scores fused from several frames instead of the model's own; None changes nothing.

    Raises:
        DatasetError: `score_frames` raises it, the folder holds CAMs of another model or other settings, or it cannot
            be written.
        InUseError: another process writes the folder.
        ModelFileError: `score_frames` raises it.
        UsageError: `score_frames` raises it, the ignore band is not two increasing thresholds in [0, 1], or the files
            would replace those of the dataset.
    """
    settings = settings or CamSettings()
    if ignore_band and not 0 <= ignore_band[0] <= ignore_band[1] <= 1:
        raise UsageError(f"expected an ignore band of two increasing thresholds in [0, 1], found {ignore_band}")
    check_use(model.info, dataset, settings)
    resolve_device(settings.device)
    chosen = threshold or decision_threshold(model, settings)
    paths = {frame.key: cam_paths(out, frame.key) for frame in dataset.frames}
    dataset.refuse_output(out, (file for files in paths.values() for file in files))
    with owning(out, DatasetError):
        _claim_folder(out, _describe(model, settings, chosen, ignore_band, known, views))
        missing = dataset.subset(predicate=lambda frame: not all(p.exists() for p in paths[frame.key]))
        for _ in range(len(dataset) - len(missing)):
            yield False
        for scored in score_frames(model, missing, settings, views):
            frame = scored if known is None else with_known(scored, known.of(scored.sample.key))
            scores_file, mask_file = paths[frame.sample.key]
            _write_whole(scores_file, _compressed(frame, model.info.input_size if settings.size == "model" else None))
            mask = pseudo_mask(frame.scores, frame.tags, ignore_band or (chosen.value, chosen.value))
            _write_whole(mask_file, cv2.imencode(".png", mask)[1].tobytes())
            yield True


@contextmanager
def new_mask_folder(
    out: Path, classes: ClassList, about: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[Callable[[str, UInt8Array], None]]:
    """Yield a function that writes the mask of a frame, by its key, into a new folder of masks without scores.

    The folder appears when the block ends well. cams.json has the SHA-256 of the masks in the place of
    that of the model, the rule `imported`, and under `source` where the masks come from.

    Args:
        out: Folder to write.
        classes: Classes of the masks.
        about: Where the masks come from, as JSON values.
        overwrite: Whether to replace a folder of masks that is there.

    Raises:
        DatasetError: the folder exists and is not to be replaced, is no folder of masks, or cannot be written.
        InUseError: another process writes the folder.
    """
    remove_left_of(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / CAMS_FILE).is_file():
            raise DatasetError(
                f"{out} exists and holds no {CAMS_FILE}, so it is no folder of masks: choose another name"
            )
        if not overwrite:
            raise DatasetError(f"{out} holds masks: choose another folder, or replace it with --overwrite")
    digest = hashlib.sha256()
    with os_errors_as(DatasetError, f"{out} cannot be written"), replacing_folder(out, overwrite=True) as folder:

        def write(key: str, mask: UInt8Array) -> None:
            file = cam_paths(folder, key)[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            digest.update(f"{key} {mask.shape}\n".encode() + np.ascontiguousarray(mask).tobytes())
            file.write_bytes(cv2.imencode(".png", mask)[1].tobytes())

        yield write
        told = {"model": digest.hexdigest(), "classes": list(classes.names), "threshold": None}
        content = json.dumps({**told, "threshold_rule": IMPORTED, "source": dict(about)}, indent=1)
        (folder / CAMS_FILE).write_text(content + "\n", encoding="utf-8")


def read_cam(path: Path, num_classes: int) -> Float32Array:
    """Return the scores (K, h, w) in [0, 1] from a file by `write_cams`.

    Raises:
        DatasetError: the file is missing, damaged, or for other classes.
    """
    try:
        small, classes = read_arrays(path, ("scores", "classes"))
        if small.ndim != 3 or small.dtype != np.uint8 or classes.shape != small.shape[:1]:
            raise ValueError(f"found scores {small.dtype} {small.shape} and classes {classes.shape}")
        if not all(1 <= int(c) <= num_classes for c in classes):
            raise ValueError(f"found the ids {classes.tolist()}")
        # The scores of all classes are made from those of the present ones.
        refuse_over("array_bytes", 4 * num_classes * small[0].size if len(small) else 0, "bytes of scores", ValueError)
    except (OSError, ValueError) as error:
        reason = f"not a CAM file for {num_classes} classes ({error})"
        raise DatasetError(f"{path}: {reason}; delete it and run again") from None
    scores = np.zeros((num_classes, *small.shape[1:]), np.float32)
    scores[classes.astype(int) - 1] = small.astype(np.float32) / 255.0
    return scores


def recorded_threshold(out: Path, rule: str) -> Threshold | None:
    """Return the threshold that this rule chose for the CAMs of a folder; None for a folder with another rule.

    Raises:
        DatasetError: the folder's cams.json cannot be read.
    """
    found = _read_description(out)
    if found is None or found.threshold_rule != rule or found.threshold is None:
        return None
    return Threshold(found.threshold, rule)


def cam_paths(folder: Path, key: str) -> tuple[Path, Path]:
    """Return the paths of the scores and of the pseudo mask of a frame."""
    return folder / f"{key}.npz", folder / f"{key}.png"


@dataclass(frozen=True)
class MaskOrigin:
    """The origin of the masks in a folder.

    Args:
        model: SHA-256 of the model file.
        rule: Name of the rule that chose the threshold.
        threshold: Threshold of the masks; None if it is not recorded.
    """

    model: str
    rule: str
    threshold: float | None


def frames_with_masks(folder: Path, dataset: Dataset) -> Dataset:
    """Return the frames that a folder has a pseudo mask of.

    Raises:
        DatasetError: the folder has no cams.json, is for other classes, or has a mask of no frame.
    """
    frames = dataset.subset(predicate=lambda frame: cam_paths(folder, frame.key)[1].is_file())
    check_masks(folder, frames if len(frames) else dataset)
    return frames


def check_masks(folder: Path, dataset: Dataset, what: Literal["masks", "CAMs"] = "masks") -> MaskOrigin:
    """Check the classes and frames of a folder by `write_cams`, and return the origin of its masks.

    Args:
        folder: Folder to check.
        dataset: Required classes and frames.
        what: Required files of each frame: pseudo masks or scores.

    Raises:
        DatasetError: the folder has no cams.json, is for other classes or lacks frames.
    """
    found = _read_description(folder)
    if found is None:
        raise DatasetError(
            f"{folder} holds no {CAMS_FILE}: expected a folder that `deal cams` or `deal masks import` wrote"
        )
    if found.classes != list(dataset.classes.names):
        raise DatasetError(
            f"{folder} is for the classes {found.classes}, but {dataset.path} has {list(dataset.classes.names)}"
        )
    wanted = [cam_paths(folder, frame.key)[what == "masks"] for frame in dataset.frames]
    missing = [str(file.relative_to(folder)) for file in wanted if not file.is_file()]
    if missing:
        raise DatasetError(
            f"{folder} lacks the {what} of {len(missing)} of {len(dataset)} frames of {dataset.path}: "
            f"{first_few(missing)}; run `deal cams` on these frames, or choose fewer frames"
        )
    return MaskOrigin(str(found.model), str(found.threshold_rule), found.threshold)


def read_mask(folder: Path, key: str, size: tuple[int, ...], num_classes: int) -> UInt8Array:
    """Return the pseudo mask of a frame, (H, W) with ids up to `num_classes` and 255.

    Args:
        folder: Folder by `write_cams`.
        key: Key of the frame.
        size: (H, W) of the image.
        num_classes: Number of classes K.

    Raises:
        DatasetError: the mask is missing, damaged or of another size, or holds another id.
    """
    file = cam_paths(folder, key)[1]
    mask = read_ids(file, "run `deal cams` on the same frames again")
    if mask.shape != size or not (mask[mask != UNLABELLED] <= num_classes).all():
        raise DatasetError(
            f"{file}: expected a mask uint8 {tuple(size)} with ids up to {num_classes}, found {mask.dtype} {mask.shape}"
        )
    return mask


def _compressed(frame: ScoredFrame, size: tuple[int, int] | None) -> bytes:
    """Return the .npz file of the scores of a frame at `size`; default: a quarter of the image size."""
    present = np.flatnonzero(frame.tags)
    height, width = size or (max(round(n / 4), 1) for n in frame.scores.shape[1:])
    reduce = cv2.INTER_LINEAR if size else cv2.INTER_AREA
    small = [cv2.resize(frame.scores[k], (width, height), interpolation=reduce) for k in present]
    quantised = np.rint(np.stack(small) * 255).astype(np.uint8) if small else np.zeros((0, height, width), np.uint8)
    compressed = io.BytesIO()
    np.savez_compressed(compressed, scores=quantised, classes=(present + 1).astype(np.uint8))
    return compressed.getvalue()


class _Description(BaseModel):
    """The content of cams.json; keys missing in older files are None, additional keys of newer files are kept."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    classes: list[str] | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    threshold_rule: str | None = None
    ignore_band: list[float] | None = None
    tags: str | None = None
    scales: list[float] | None = None
    flip: bool | None = None
    size: str | None = None
    normalise: str | None = None
    refine: dict[str, Any] | None = None
    precision: str | None = None
    known: str | None = None
    views: str | None = None
    gate: bool | None = None


def _describe(
    model: LoadedModel,
    settings: CamSettings,
    threshold: Threshold,
    ignore_band: IgnoreBand | None,
    known: KnownMasks | None,
    views: OtherViews | None,
) -> _Description:
    refine: dict[str, Any] = {"method": refinement_name(settings.refine)}
    if settings.refine is not None:
        refine |= dataclasses.asdict(settings.refine)
    return _Description(
        model=model.sha256,
        classes=list(model.info.classes.names),
        threshold=threshold.value,
        threshold_rule=threshold.rule,
        ignore_band=None if ignore_band is None else list(ignore_band),
        tags=settings.tags,
        scales=list(settings.scales),
        flip=settings.flip,
        size=settings.size,
        normalise=settings.normalise,
        refine=refine,
        precision=None if settings.precision == "32" else settings.precision,
        known=None if known is None else known.digest,
        views=None if views is None else views.digest,
        gate=settings.gate or None,
    )


def _claim_folder(out: Path, ours: _Description) -> None:
    """Record model and settings in the folder, or remove what a killed process left in one of ours.

    Raises:
        DatasetError: the folder holds CAMs of others.
    """
    theirs = _read_description(out)
    if theirs is None:
        content = ours.model_dump(mode="json")
        for name in ("known", "views", "gate"):
            if content[name] is None:
                del content[name]
        _write_whole(out / CAMS_FILE, (json.dumps(content, indent=1) + "\n").encode())
        return
    remove_leftovers(out)
    here, there = ours.model_dump(mode="json"), theirs.model_dump(mode="json")
    for about in (here, there):
        (about["refine"] or {}).pop("backend", None)  # version 0.1.0 had two for the CRF, with equal results
    if here.get("views") != there.get("views"):
        raise DatasetError(
            f"{out} holds CAMs made with other --views, poses or frames: choose another folder, or delete this one"
        )
    if here.get("known") != there.get("known"):
        raise DatasetError(
            f"{out} holds CAMs made with other taps, boxes or poses: choose another folder, or delete this one"
        )
    other = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if other:
        raise DatasetError(
            f"{out} holds CAMs made with another {', '.join(other)} (see its {CAMS_FILE}): choose another folder, "
            "or delete this one"
        )


def _read_description(out: Path) -> _Description | None:
    file = out / CAMS_FILE
    try:
        return _Description.model_validate_json(read_bytes(file, "description_bytes"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = explain_invalid(error) if isinstance(error, ValidationError) else error
        raise DatasetError(f"{file} cannot be read ({reason}): delete the folder and run again") from None


def _write_whole(file: Path, data: bytes) -> None:
    with os_errors_as(DatasetError, f"{file} cannot be written"), replacing(file, synced=False) as temporary:
        temporary.write_bytes(data)
