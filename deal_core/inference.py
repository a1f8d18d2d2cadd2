"""A model over a whole dataset: class scores, CAM files, and figures against the masks that someone drew."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from deal_core.cams import multi_scale_scores
from deal_core.data.dataset import Dataset
from deal_core.data.sample import UNLABELLED, Float32Array, Sample, UInt8Array
from deal_core.data.transforms import resize_sample, to_tensors
from deal_core.errors import DatasetError, ModelFileError
from deal_core.evaluation import EvaluationResult, MaskEvaluator, ThresholdSweep, predict_mask
from deal_core.files import replacing
from deal_core.modelfile import LoadedModel
from deal_core.pictures import PictureWriter, choose_frames
from deal_core.runtime import resolve_device

TagSource = Literal["given", "predicted"]
CAMS_FILE = "cams.json"
# What numpy and zipfile raise for files that are damaged or of another kind.
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class CamSettings:
    """How scores are made.

    Args:
        tags: "given": only classes tagged present in the frame can score, as papers evaluate CAMs; "predicted":
            the network's own opinion, as on the robot.
        scales: factors on the model's input size.
        flip: add the mirrored image at each scale.
        device: auto, cpu, cuda, ...
        batch_size: images at once.
    """

    tags: TagSource = "given"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    device: str = "auto"
    batch_size: int = 16


@dataclass(frozen=True, eq=False)
class ScoredFrame:
    """A frame and its class scores, (K, H, W) float32 in [0, 1] at the size of the image."""

    sample: Sample
    scores: Float32Array

    @property
    def tags(self) -> Float32Array:
        """(K,) 1 for the classes whose score is not 0 everywhere."""
        return (self.scores.max(axis=(1, 2)) > 0).astype(np.float32)


def score_frames(model: LoadedModel, dataset: Dataset, settings: CamSettings | None = None) -> Iterator[ScoredFrame]:
    """Yield every frame of the dataset with its class scores, in order and in constant memory.

    Raises:
        ModelFileError: the model is for other classes than the dataset.
        DatasetError: a file of the dataset is missing or damaged.
        UsageError: the device is not there.
    """
    settings = settings or CamSettings()
    check_classes(model, dataset)
    device = resolve_device(settings.device)
    network = model.network.to(device)
    for start in range(0, len(dataset), settings.batch_size):
        samples = [dataset.load(i) for i in range(start, min(start + settings.batch_size, len(dataset)))]
        tensors = [to_tensors(resize_sample(s, model.info.input_size)) for s in samples]
        tags = torch.stack([t.tags for t in tensors]).to(device) if settings.tags == "given" else None
        with torch.inference_mode():
            images = torch.stack([t.image for t in tensors]).to(device, memory_format=torch.channels_last)
            batch = multi_scale_scores(network, images, tags=tags, scales=settings.scales, flip=settings.flip)
            for sample, scores in zip(samples, batch, strict=True):
                size = sample.image.shape[:2]
                full = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
                yield ScoredFrame(sample, full.clamp(0, 1).cpu().numpy())


def evaluate_model(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings | None = None,
    *,
    name: str,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Callable[[int], None] = lambda frames: None,
) -> EvaluationResult:
    """Compare a model's masks with the true ones, with the model's own threshold and the swept one.

    Two passes over the frames that have a mask: the second draws the masks at the threshold that the first found.

    Args:
        model: the model.
        dataset: frames without a mask are left out.
        settings: how scores are made.
        name: of the run, for readers.
        pictures: run folder into which pictures of some frames are written, worst first; none when left out.
        num_pictures: how many frames to show.
        show: the keys of the frames to show instead, as for another run that is to be looked at beside this one.
        advance: told the number of frames done, 0 to twice their number.

    Raises:
        DatasetError: no frame has a mask, or none of the masks a labelled pixel.
        ModelFileError: the model is for other classes.
    """
    settings = settings or CamSettings()
    dataset = dataset.subset(predicate=lambda frame: frame.mask is not None)
    if not len(dataset):
        raise DatasetError(f"{dataset.path}: no frame has a mask to compare with; masks/ is empty in every recording")
    classes, threshold = dataset.classes, model.info.threshold
    sweep, auto, oracle = ThresholdSweep(len(classes)), MaskEvaluator(len(classes)), MaskEvaluator(len(classes))
    for done, frame in enumerate(score_frames(model, dataset, settings), 1):
        mask = _mask_of(frame.sample)
        sweep.update(frame.scores, frame.tags, mask)
        auto.update(predict_mask(frame.scores, frame.tags, threshold.value), mask, frame.sample.key)
        advance(done)
    if not sweep.counts.any():
        raise DatasetError(f"{dataset.path}: the masks hold no labelled pixel, only {UNLABELLED} (ignored)")
    best = sweep.best()
    shown = tuple(show) or choose_frames(auto.frames, num_pictures) if pictures else ()
    kept: dict[str, ScoredFrame] = {}
    for done, frame in enumerate(score_frames(model, dataset, settings), 1):
        oracle.update(predict_mask(frame.scores, frame.tags, best.threshold), _mask_of(frame.sample), frame.sample.key)
        if frame.sample.key in shown:
            kept[frame.sample.key] = frame
        advance(len(dataset) + done)
    result = EvaluationResult(
        name=name,
        dataset=str(dataset.path),
        classes=classes,
        num_frames=len(dataset),
        oracle=oracle.score(classes, rule="oracle", threshold=best.threshold),
        auto=auto.score(classes, rule=threshold.rule, threshold=threshold.value),
        curve=sweep.curve(),
        per_frame=tuple(auto.frames),
        details={"tags": settings.tags, "model": model.sha256[:12], **_plain(model.info.training)},
    )
    if pictures:
        _write_pictures(pictures, result, [kept[key] for key in shown if key in kept], threshold.value)
    return result


def write_cams(model: LoadedModel, dataset: Dataset, out: Path, settings: CamSettings | None = None) -> Iterator[bool]:
    """Write scores and pseudo mask of each frame; yield, frame by frame, whether it had to be made.

    `<out>/<recording>/<stamp>.npz` holds `scores` (P, h, w) uint8, of [0, 1], at the model's input size, and
    `classes` (P,), the mask ids of the P present classes; `<stamp>.png` the mask (H, W) at the model's
    threshold; `<out>/cams.json` says which model and settings made them. Frames whose two files exist are left
    alone, so an interrupted run goes on where it stopped.

    Raises:
        DatasetError: as `score_frames`; or the folder holds CAMs of another model or other settings, or cannot be
            written.
        ModelFileError, UsageError: as `score_frames`.
    """
    settings = settings or CamSettings()
    check_classes(model, dataset)
    resolve_device(settings.device)
    _claim_folder(out, model, settings)
    paths = {frame.key: _cam_paths(out, frame.key) for frame in dataset.frames}
    missing = dataset.subset(predicate=lambda frame: not all(p.exists() for p in paths[frame.key]))
    for _ in range(len(dataset) - len(missing)):
        yield False
    for frame in score_frames(model, missing, settings):
        scores_file, mask_file = paths[frame.sample.key]
        present = np.flatnonzero(frame.tags)
        height, width = model.info.input_size
        small = [cv2.resize(frame.scores[k], (width, height), interpolation=cv2.INTER_LINEAR) for k in present]
        quantised = np.rint(np.stack(small) * 255).astype(np.uint8) if small else np.zeros((0, height, width), np.uint8)
        compressed = io.BytesIO()
        np.savez_compressed(compressed, scores=quantised, classes=(present + 1).astype(np.uint8))
        _write_whole(scores_file, compressed.getvalue())
        mask = predict_mask(frame.scores, frame.tags, model.info.threshold.value)
        _write_whole(mask_file, cv2.imencode(".png", mask)[1].tobytes())
        yield True


def read_cam(path: Path, num_classes: int) -> Float32Array:
    """Return the scores (K, h, w) in [0, 1] of a file that `write_cams` wrote.

    Raises:
        DatasetError: the file is missing, damaged, or for other classes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            small, classes = file["scores"], file["classes"]
        if small.ndim != 3 or small.dtype != np.uint8 or classes.shape != small.shape[:1]:
            raise ValueError(f"found scores {small.dtype} {small.shape} and classes {classes.shape}")
        if not all(1 <= int(c) <= num_classes for c in classes):
            raise ValueError(f"found the ids {classes.tolist()}")
    except _DAMAGE as error:
        raise DatasetError(
            f"{path}: not a CAM file for {num_classes} classes ({error}); delete it and run again"
        ) from None
    scores = np.zeros((num_classes, *small.shape[1:]), np.float32)
    scores[classes.astype(int) - 1] = small.astype(np.float32) / 255.0
    return scores


def check_classes(model: LoadedModel, dataset: Dataset) -> None:
    """Refuse a model for other classes than the dataset's.

    Raises:
        ModelFileError: names or their order differ; the message shows both.
    """
    if model.info.classes.names != dataset.classes.names:
        raise ModelFileError(
            f"the model is for the classes {', '.join(model.info.classes.names)}, but {dataset.path} has "
            f"{', '.join(dataset.classes.names)}"
        )


def _write_pictures(run: Path, result: EvaluationResult, frames: Sequence[ScoredFrame], threshold: float) -> None:
    iou = {score.key: score.iou for score in result.per_frame}
    with PictureWriter(run, result.classes) as pictures:
        for frame in frames:
            sample = frame.sample
            pictures.add(
                sample.key,
                iou[sample.key],
                image=sample.image,
                prediction=predict_mask(frame.scores, frame.tags, threshold),
                truth=sample.mask,
                depth=sample.depth,
                depth_valid=sample.depth_valid,
                scores=frame.scores,
                tags=frame.tags,
            )


def _mask_of(sample: Sample) -> UInt8Array:
    assert sample.mask is not None  # only frames with a mask were asked for
    return sample.mask


def _claim_folder(out: Path, model: LoadedModel, settings: CamSettings) -> None:
    """Note which model and settings the folder's CAMs are of; refuse one that holds others'."""
    file = out / CAMS_FILE
    ours = {
        "model": model.sha256,
        "classes": list(model.info.classes.names),
        "threshold": model.info.threshold.value,
        "tags": settings.tags,
        "scales": list(settings.scales),
        "flip": settings.flip,
    }
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        theirs = None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): delete the folder and run again") from None
    if theirs is None:
        _write_whole(file, (json.dumps(ours, indent=1) + "\n").encode())
    elif theirs != ours:
        other = [name for name in ours if not isinstance(theirs, dict) or theirs.get(name) != ours[name]]
        raise DatasetError(
            f"{out} holds CAMs that were made with another {', '.join(other)} ({file.name} says which): "
            "choose another folder, or delete this one"
        )


def _write_whole(file: Path, data: bytes) -> None:
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DatasetError(f"{file} cannot be written: {error.strerror}") from error


def _cam_paths(out: Path, key: str) -> tuple[Path, Path]:
    return out / f"{key}.npz", out / f"{key}.png"


def _plain(values: object) -> dict[str, str | int | float | bool]:
    items = values.items() if isinstance(values, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, (str, int, float, bool))}
