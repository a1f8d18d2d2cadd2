"""A model over a whole dataset: class scores, thresholds, and figures against the masks that someone drew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.dataset.transforms import resize_sample, to_tensors
from deal_core.devices import resolve_device
from deal_core.errors import ModelFileError, UsageError
from deal_core.masks.choices import ImageSize, Normalisation, TagSource
from deal_core.masks.class_scores import multi_scale_scores
from deal_core.masks.refine.background import ARGMAX_THRESHOLD
from deal_core.masks.refine.refinement import (
    RefineSettings,
    lets_background_compete,
    needs_depth,
    refine_scores,
    refinement_name,
)
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.structures import Float32Array, Sample

THRESHOLD_FRAMES = 500
"""A rule that chooses a threshold looks at no more."""


@dataclass(frozen=True)
class CamSettings:
    """How scores are made.

    Args:
        tags: "given": only classes tagged present in the frame can score, as papers evaluate CAMs; "predicted":
            the network's own opinion, as on the robot.
        scales: factors on the image's size.
        flip: add the mirrored image at each scale.
        device: auto, cpu, cuda, ...
        batch_size: images at once; those at their own size go one by one.
        size: what a scale of 1 is: the "model" file's input size, or the "image" as it is, as papers have it.
        normalise: of each class map, see `deal_core.masks.class_scores.normalise`.
        refine: refinement of the scores; None leaves them as they are.
        depth_fails: give no depth to a network that uses it, as if the sensor had failed.

    `tags` and `normalise` are for CAM networks; a segmenter predicts which classes are present.
    """

    tags: TagSource = "given"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    device: str = "auto"
    batch_size: int = 16
    size: ImageSize = "model"
    normalise: Normalisation = "max"
    refine: RefineSettings | None = None
    depth_fails: bool = False


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
        ModelFileError: the model is for other classes than the dataset, or its scores of a frame are not finite.
        DatasetError: a file of the dataset is missing or damaged.
        UsageError: the device is not there, or the refinement needs depth and the dataset has none.
    """
    settings = settings or CamSettings()
    check_use(model.info, dataset, settings)
    device = resolve_device(settings.device)
    network = model.network.to(device)
    at_once = settings.batch_size if settings.size == "model" else 1
    for start in range(0, len(dataset), at_once):
        samples = [dataset.load(i) for i in range(start, min(start + at_once, len(dataset)))]
        with torch.inference_mode():
            batch = _batch_scores(network, samples, model.info, device, settings)
        # Nothing is yielded within the mode: of two iterators that take turns, one would leave the other's switched on.
        for sample, scores in zip(samples, batch, strict=True):
            yield ScoredFrame(sample, _finished(model, dataset, settings, sample, scores))


def decision_threshold(model: LoadedModel, settings: CamSettings) -> Threshold:
    """Return the threshold that goes with the scores: the model's own, or 1/2 where the background competes."""
    if lets_background_compete(settings.refine):
        return Threshold(ARGMAX_THRESHOLD, "argmax")
    return model.info.threshold


def choose_threshold(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings,
    rule: str,
    *,
    advance: Callable[[int], None] = lambda frames: None,
) -> Threshold:
    """Choose the threshold anew for these images and scores, by a rule that sees no masks.

    Looks at no more than `THRESHOLD_FRAMES`, evenly spread.

    Args:
        model: the model.
        dataset: the frames.
        settings: how scores are made.
        rule: a name that `deal_core.masks.threshold_rules.create_rule` knows.
        advance: called with the number of frames done.

    Raises:
        ConfigError: an unknown rule.
        UsageError: the rule needs depth and the dataset has none.
        EvaluationError: nothing was seen that the rule could decide on.
    """
    chooser = create_rule(rule, depth_kind=dataset.depth_kind)
    need_depth_for_rule(rule, dataset)
    for done, frame in enumerate(score_frames(model, evenly_spread(dataset, THRESHOLD_FRAMES), settings), 1):
        chooser.update(frame.scores, frame.sample.depth, frame.sample.depth_valid, frame.tags)
        advance(done)
    return Threshold(chooser.threshold(), rule)


def need_depth_for_rule(rule: str, dataset: Dataset) -> None:
    """Raise UsageError if the threshold rule of this name reads depth and the dataset has none."""
    if rule.startswith("depth") and not dataset.has_depth:
        raise UsageError(
            f"the threshold rule '{rule}' needs depth, and {dataset.path} has none: use 'otsu', or estimate depth "
            "with `deal depth` and name its folder"
        )


def check_use(model: ModelInfo, dataset: Dataset, settings: CamSettings) -> None:
    """Refuse, before any work, what cannot be scored.

    Raises:
        ModelFileError: classes or their order differ from the dataset's; the message shows both.
        UsageError: the refinement needs depth and the dataset has none, the network uses metres and the dataset's
            depth is not in metres, or `depth_fails` is set for a network that does not use depth.
    """
    if model.classes.names != dataset.classes.names:
        raise ModelFileError(
            f"the model is for the classes {', '.join(model.classes.names)}, but {dataset.path} has "
            f"{', '.join(dataset.classes.names)}"
        )
    if settings.depth_fails and not model.uses_depth:
        raise UsageError("depth can be kept only from a model that uses it, and this one sees colour alone")
    if model.uses_depth and not settings.depth_fails and dataset.depth_kind != "metric":
        raise UsageError(
            f"the model uses depth in metres, and that of {dataset.path} is {dataset.depth_kind}: use the sensor's"
        )
    if needs_depth(settings.refine) and len(dataset) and not dataset.has_depth:
        raise UsageError(
            f"the refinement '{refinement_name(settings.refine)}' needs depth, and {dataset.path} has none: estimate "
            "it with `deal depth` and name its folder, or use par, crf, or the walk with affinity=colour"
        )


@torch.inference_mode()
def _finished(
    model: LoadedModel, dataset: Dataset, settings: CamSettings, sample: Sample, scores: Tensor
) -> Float32Array:
    """Return the scores (K, h, w) of a network refined, at the size of the image."""
    if not torch.isfinite(scores).all():
        raise ModelFileError(
            f"{sample.key}: the network's class scores are not finite; its training has diverged: train again with a "
            "lower learning rate"
        )
    refined = refine_scores(
        sample.image,
        _resize(scores, sample.image.shape[:2]).clamp(0, 1),
        settings.refine,
        threshold=model.info.threshold.value,
        depth=sample.depth,
        depth_valid=sample.depth_valid,
        depth_kind=dataset.depth_kind,
    )
    finished: Float32Array = refined.cpu().numpy()
    return finished


def _batch_scores(
    network: torch.nn.Module,
    samples: Sequence[Sample],
    info: ModelInfo,
    device: str,
    settings: CamSettings,
) -> Tensor:
    """Return (B, K, h, w) scores at the network's input size, or at that of the only image."""
    sized = [resize_sample(s, info.input_size) for s in samples] if settings.size == "model" else samples
    tensors = [to_tensors(s) for s in sized]
    images = torch.stack([t.image for t in tensors]).to(device, memory_format=torch.channels_last)
    sees_depth = info.uses_depth and not settings.depth_fails
    return multi_scale_scores(
        network,
        images,
        torch.stack([t.depth for t in tensors]).to(device) if sees_depth else None,
        tags=torch.stack([t.tags for t in tensors]).to(device) if settings.tags == "given" else None,
        scales=settings.scales,
        flip=settings.flip,
        normalisation=settings.normalise,
    )


def _resize(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(scores.shape[1:]) == tuple(size):
        return scores
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
