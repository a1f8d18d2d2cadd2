"""Class scores and thresholds of a model on a whole dataset."""

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
from deal_core.masks.choices import ImageSize, Normalisation, Precision, TagSource
from deal_core.masks.class_scores import multi_scale_scores
from deal_core.masks.other_views import OtherViews
from deal_core.masks.refine.background import ARGMAX_THRESHOLD
from deal_core.masks.refine.refinement import (
    RefineSettings,
    lets_background_compete,
    needs_depth,
    refine_scores,
    refinement_name,
)
from deal_core.masks.threshold_rules import create_rule, need_depth_for_rule
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.region_mil import RegionMil
from deal_core.regions.scores import region_scores
from deal_core.structures import Float32Array, Sample

THRESHOLD_FRAMES = 500
"""Largest number of frames from which a rule chooses a threshold."""


@dataclass(frozen=True)
class CamSettings:
    """Settings of the class scores.

    Args:
        tags: Present classes of a CAM network: "given" takes the tags of the frame, as in papers; "predicted" takes the
            prediction of the network, as on the robot.
        scales: Factors on the image size.
        flip: Whether to add the mirrored image at each scale.
        device: auto, cpu, cuda, ...
        batch_size: Images per batch; with the size "image", every batch has one image.
        size: Image size at scale 1: the input size of the "model" file, or of the "image", as in papers.
        normalise: Normalisation of the maps of a CAM network, see `deal_core.masks.class_scores.normalise`.
        refine: Refinement of the scores; None for no refinement.
        depth_fails: Whether to give no depth to a network that uses it, as if the sensor had failed.
        precision: Numbers of the network: "32", or "bf16", which is faster on GPUs and on processors with AMX, and
            changes few pixels (docs/results.md).
        gate: Whether a segmenter, too, gives no score to classes that are tagged absent, as for masks that teach.
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
    precision: Precision = "32"
    gate: bool = False


@dataclass(frozen=True, eq=False)
class ScoredFrame:
    """A frame and its class scores, (K, H, W) float32 in [0, 1] at the size of the image."""

    sample: Sample
    scores: Float32Array

    @property
    def tags(self) -> Float32Array:
        """(K,) with 1 for the classes with a score above 0."""
        return (self.scores.max(axis=(1, 2)) > 0).astype(np.float32)


def score_frames(
    model: LoadedModel, dataset: Dataset, settings: CamSettings | None = None, views: OtherViews | None = None
) -> Iterator[ScoredFrame]:
    """Yield every frame of the dataset with its class scores, in order and in constant memory.

    Args:
        model: Model that makes the scores.
        dataset: Frames to score.
        settings: Settings of the scores.
        views: Scores fused from several frames, which are refined instead of the model's own where there are some.

    Raises:
        ModelFileError: the model is for other classes than the dataset, or its scores are not finite.
        DatasetError: a file of the dataset is missing or damaged.
        UsageError: the device is not available, or the refinement needs depth and the dataset has none.
    """
    settings = settings or CamSettings()
    check_use(model.info, dataset, settings)
    device = resolve_device(settings.device)
    network = model.network.to(device)
    if settings.precision != "32":  # in bfloat16, convolutions over images stored channels last take half the time
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    at_once = 1 if isinstance(network, RegionMil) else frames_at_once(settings)
    for start in range(0, len(dataset), at_once):
        samples = [dataset.load(i) for i in range(start, min(start + at_once, len(dataset)))]
        fused = [views.scores(sample) if views else None for sample in samples]
        alone = [sample for sample, found in zip(samples, fused, strict=True) if found is None]
        # No `yield` inside inference mode: alternating iterators would leave it active for each other.
        own = iter(_own_scores(network, alone, model, dataset, device, settings) if alone else ())
        for sample, found in zip(samples, fused, strict=True):
            scores = next(own) if found is None else found.to(device)
            yield ScoredFrame(sample, _finished(model, dataset, settings, sample, scores))


def frames_at_once(settings: CamSettings) -> int:
    """Return the number of frames that go through the network together."""
    return settings.batch_size if settings.size == "model" else 1


def decision_threshold(model: LoadedModel, settings: CamSettings) -> Threshold:
    """Return the threshold for the scores: that of the model file, or 1/2 if classes compete with the background."""
    if lets_background_compete(settings.refine):
        return Threshold(ARGMAX_THRESHOLD, "argmax")
    return model.info.threshold


def choose_threshold(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings,
    rule: str,
    *,
    views: OtherViews | None = None,
    advance: Callable[[int], None] = lambda frames: None,
) -> Threshold:
    """Choose a threshold for these frames by a rule without masks, from at most `THRESHOLD_FRAMES`, evenly spread.

    Args:
        model: Model that makes the scores.
        dataset: Frames.
        settings: Settings of the scores.
        rule: Name of a rule for `deal_core.masks.threshold_rules.create_rule`.
        views: Fused scores, see `score_frames`.
        advance: Function to call with the number of processed frames.

    Raises:
        ConfigError: the rule is unknown.
        UsageError: the rule needs depth and the dataset has none.
        EvaluationError: the frames give the rule no information.
    """
    chooser = create_rule(rule, depth_kind=dataset.depth_kind)
    need_depth_for_rule(rule, dataset)
    for done, frame in enumerate(score_frames(model, evenly_spread(dataset, THRESHOLD_FRAMES), settings, views), 1):
        chooser.update(frame.scores, frame.sample.depth, frame.sample.depth_valid, frame.tags)
        advance(done)
    return Threshold(chooser.threshold(), rule)


def check_use(model: ModelInfo, dataset: Dataset, settings: CamSettings) -> None:
    """Check that the model and the settings fit the dataset.

    Raises:
        ModelFileError: the classes of the model and the dataset, or their order, differ.
        UsageError: the refinement or the model needs depth and the dataset has none; the network uses depth in metres
            and the dataset has another kind; or `depth_fails` is set for a network without depth.
    """
    if model.classes.names != dataset.classes.names:
        raise ModelFileError(
            f"the model is for the classes {', '.join(model.classes.names)}, but {dataset.path} has "
            f"{', '.join(dataset.classes.names)}"
        )
    if settings.depth_fails and not model.uses_depth:
        raise UsageError("depth_fails needs a model that uses depth, but this model sees colour alone")
    if model.uses_depth and not settings.depth_fails and dataset.depth_kind != "metric":
        raise UsageError(
            f"the model uses depth in metres, but the depth of {dataset.path} is {dataset.depth_kind}: use the "
            "depth of the sensor"
        )
    if model.names_regions and settings.precision != "32":
        raise UsageError("--precision: the scores of a region model are always computed in float32")
    if model.names_regions and len(dataset) and not dataset.has_depth:
        raise UsageError(
            f"a region model needs depth, and {dataset.path} has none: estimate it with `deal depth` and pass its "
            "folder"
        )
    if needs_depth(settings.refine) and len(dataset) and not dataset.has_depth:
        raise UsageError(
            f"the refinement '{refinement_name(settings.refine)}' needs depth, and {dataset.path} has none: estimate "
            "it with `deal depth` and pass its folder, or use auto, par, crf, or the walk with affinity=colour"
        )


@torch.inference_mode()
def _finished(
    model: LoadedModel, dataset: Dataset, settings: CamSettings, sample: Sample, scores: Tensor
) -> Float32Array:
    """Return the refined scores (K, H, W) at the size of the image, from the scores (K, h, w) of the network."""
    if not torch.isfinite(scores).all():
        raise ModelFileError(
            f"{sample.key}: the class scores of the network are not finite, so its training has diverged: train again "
            "with a lower learning rate"
        )
    if settings.gate:
        scores = torch.where(torch.from_numpy(sample.tags == 0).to(scores.device)[:, None, None], 0.0, scores)
    refined = refine_scores(
        sample.image,
        _resize(scores, sample.image.shape[:2]).clamp(0, 1),
        settings.refine,
        threshold=model.info.threshold.value,
        relative=not model.info.is_segmenter,
        depth=sample.depth,
        depth_valid=sample.depth_valid,
        depth_kind=dataset.depth_kind,
    )
    finished: Float32Array = refined.cpu().numpy()
    return finished


def _own_scores(
    network: torch.nn.Module,
    samples: Sequence[Sample],
    model: LoadedModel,
    dataset: Dataset,
    device: str,
    settings: CamSettings,
) -> Sequence[Tensor] | Tensor:
    """Return the scores (K, h, w) of each frame by the network."""
    if isinstance(network, RegionMil):
        given = settings.tags == "given"
        size, kind = model.info.input_size, dataset.depth_kind
        return [torch.from_numpy(region_scores(network, s, size, kind, s.tags if given else None)) for s in samples]
    with torch.inference_mode(), _autocast(device, settings.precision):
        return _batch_scores(network, samples, model.info, device, settings)


def _autocast(device: str, precision: Precision) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def _batch_scores(
    network: torch.nn.Module, samples: Sequence[Sample], info: ModelInfo, device: str, settings: CamSettings
) -> Tensor:
    """Return (B, K, h, w) scores at the input size of the network, or at the size of the only image."""
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
