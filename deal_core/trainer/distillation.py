"""Training of a run-time segmenter on pseudo masks, or on drawn ones, in a run folder like that of `trainer`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset, with_masks
from deal_core.dataset.open import open_dataset
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError
from deal_core.evaluation.metrics import MaskEvaluator, MaskScore
from deal_core.evaluation.result import score_to_json
from deal_core.losses.clipping import clipped_cross_entropy
from deal_core.masks.decide import predict_mask, strongest_channel
from deal_core.masks.mask_folder import check_masks, read_mask
from deal_core.masks.refine.background import ARGMAX_THRESHOLD
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.factory import create_model, is_segmenter, uses_depth
from deal_core.models.model_file import MODEL_FILE, LoadedModel, ModelInfo, Threshold, save_model
from deal_core.models.output import SegmenterOutput
from deal_core.structures import UNLABELLED, Sample
from deal_core.trainer.loop import (
    Progress,
    begin_step,
    check_batch_size,
    create_fabric,
    end_step,
    evaluating,
    fit,
    leave_unused_alone,
)
from deal_core.trainer.run_folder import TrainState, write_whole
from deal_core.trainer.settings import ClipSettings, DistillSettings
from deal_core.trainer.views import Views, plain_batches

REPORT_FILE = "distill.json"
"""In the run folder: what `DistillResult.to_json` says."""


@dataclass(frozen=True)
class DistillResult:
    """What a training leaves behind.

    Args:
        model: the model file.
        steps: of the training.
        resumed_from: step of the checkpoint that was resumed, 0 for a fresh run.
        training_frames: how many were trained on.
        held_out_frames: how many were not.
        agreement: of the segmenter with the masks it was not trained on, of the held-out frames; None without any.
        drawn: of the segmenter with the masks that somebody drew for held-out frames; None without any.
        agreement_without_depth: as `agreement`, of a segmenter that uses depth and gets none; None for another.
        drawn_without_depth: as `drawn`, of a segmenter that uses depth and gets none; None for another.
    """

    model: Path
    steps: int
    resumed_from: int
    training_frames: int
    held_out_frames: int
    agreement: MaskScore | None
    drawn: MaskScore | None
    agreement_without_depth: MaskScore | None = None
    drawn_without_depth: MaskScore | None = None

    def scores(self) -> dict[str, MaskScore]:
        """Return the scores that there are, by name."""
        names = ("agreement", "drawn", "agreement_without_depth", "drawn_without_depth")
        found = {name: getattr(self, name) for name in names}
        return {name: score for name, score in found.items() if score is not None}

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON; scores that there are none of are null."""
        return {
            "model": str(self.model),
            "steps": self.steps,
            "resumed_from": self.resumed_from,
            "training_frames": self.training_frames,
            "held_out_frames": self.held_out_frames,
            "agreement": None,
            "drawn": None,
            **{name: score_to_json(score) for name, score in self.scores().items()},
        }


def distill(settings: DistillSettings, report: Callable[[Progress], None] = lambda progress: None) -> DistillResult:
    """Train, or go on with, the run in `settings.output`.

    Raises:
        DatasetError: the dataset cannot be read; or masks are missing, damaged, of another size or for other classes.
        ConfigError: the network is no segmenter, the run folder holds another run, or the settings do not fit the
            data, the network or this machine; or the network uses depth and there is none in metres.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
    """
    if not is_segmenter(settings.model.name):
        raise ConfigError(f"model.name: expected segmenter, found {settings.model.name}, which `deal train` trains")
    fabric = create_fabric(settings)
    dataset = open_dataset(settings.data)
    _check_depth(dataset, settings)
    frames, held_out = _labelled_frames(dataset, settings)
    check_batch_size(settings, len(frames), fabric.world_size)
    torch.manual_seed(settings.seed)
    network = create_model(settings.model.name, len(dataset.classes), **settings.model.arguments)
    _try_out(network, settings)
    objective = MaskObjective(network, settings.clip)
    views = Views(frames, settings, with_mask=True)

    def held_out_figures() -> dict[str, float]:
        return watch(network, held_out, settings, fabric.device) if len(held_out) else {}

    done = fit(fabric, network, objective, views, settings, distill_step, held_out_figures, report)

    masks = str(settings.masks)
    facts = {"steps": done.steps, "frames": len(frames), "seed": settings.seed, "masks": masks}
    name, arguments, size = settings.model.name, settings.model.arguments, settings.data.image_size
    info = ModelInfo(name, arguments, dataset.classes, size, Threshold(ARGMAX_THRESHOLD, "argmax"), facts)
    model = settings.output / MODEL_FILE
    if fabric.is_global_zero:
        save_model(model, network, info)
    fabric.barrier()
    scored = LoadedModel(network, info, sha256="")
    how = CamSettings(tags="predicted", flip=False, device=str(fabric.device))
    with evaluating(network):
        scores = _scores(scored, held_out, how)
        without_depth = _scores(scored, held_out, replace(how, depth_fails=True)) if info.uses_depth else (None, None)
    result = DistillResult(model, done.steps, done.resumed_from, len(frames), len(held_out), *scores, *without_depth)
    if fabric.is_global_zero:
        write_whole(settings.output / REPORT_FILE, json.dumps(result.to_json(), indent=2) + "\n")
    return result


class MaskObjective(nn.Module):
    """A segmenter together with its loss.

    Args:
        network: its forward returns a `SegmenterOutput`.
        clip: of large losses.
    """

    def __init__(self, network: nn.Module, clip: ClipSettings) -> None:
        super().__init__()
        self.network = network
        self.clip = clip

    def forward(self, batch: TensorSample, position: float) -> dict[str, Tensor]:
        """Return `loss` and `clipped`, the share of the labelled pixels whose loss was cut.

        Args:
            batch: with masks.
            position: in [0, 1), of the training.
        """
        logits, mask = _logits_and_mask(self.network, batch)
        below = self.clip.below if position >= self.clip.start else 0.0
        loss, clipped = clipped_cross_entropy(logits, mask, below=below, cells=self.clip.cells)
        return {"loss": loss, "clipped": clipped}


def distill_step(
    fabric: Fabric,
    objective: Any,
    optimizer: Optimizer,
    batch: TensorSample,
    state: TrainState,
    settings: DistillSettings,
) -> dict[str, float]:
    """Make one optimiser step and return the losses of this process as plain numbers."""
    rate = begin_step(fabric, optimizer, state, settings)
    return {**end_step(fabric, optimizer, objective(batch, state.step / state.total_steps), state), "lr": rate}


@dataclass(frozen=True)
class LabelledFrames:
    """Frames of a dataset with the masks to train on.

    Args:
        dataset: the frames.
        masks: the folder of their pseudo masks; None for those that somebody drew.
    """

    dataset: Dataset
    masks: Path | None

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, frame: int) -> Sample:
        """Read one.

        Raises:
            DatasetError: a file is missing or damaged, or the mask has another size or other classes.
        """
        return self.with_mask(self.dataset.load(frame))

    def with_mask(self, sample: Sample) -> Sample:
        """Return a sample of the dataset with the mask to train on."""
        if self.masks is None:
            return sample
        mask = read_mask(self.masks, sample.key, sample.image.shape[:2], len(self.dataset.classes))
        return replace(sample, mask=mask)


def watch(
    network: nn.Module, frames: LabelledFrames, settings: DistillSettings, device: torch.device
) -> dict[str, float]:
    """Return loss and share of labelled pixels that agree, on held-out frames with masks as those trained on."""
    losses, right, known = 0.0, 0, 0
    with evaluating(network):
        for batch in plain_batches(frames, settings, device, with_mask=True):
            logits, mask = _logits_and_mask(network, batch)
            is_known = mask != UNLABELLED
            losses += float(F.cross_entropy(logits.float(), mask.long(), ignore_index=UNLABELLED, reduction="sum"))
            right += int(((strongest_channel(logits) == mask) & is_known).sum())
            known += int(is_known.sum())
    return {"held_out_loss": losses / max(known, 1), "held_out_agreement": right / max(known, 1)}


def _logits_and_mask(network: nn.Module, batch: TensorSample) -> tuple[Tensor, Tensor]:
    """Return the logits (B, K + 1, H, W) at the size of the masks (B, H, W)."""
    assert batch.mask is not None  # only views with a mask were asked for
    image = batch.image.contiguous(memory_format=torch.channels_last)
    output: SegmenterOutput = network(image, batch.depth if network.uses_depth else None)
    return F.interpolate(output.logits, batch.mask.shape[1:], mode="bilinear", align_corners=False), batch.mask


def _labelled_frames(dataset: Dataset, settings: DistillSettings) -> tuple[LabelledFrames, LabelledFrames]:
    """Return the frames to train on and those held out, with their masks."""
    folder = None if settings.masks == "drawn" else Path(settings.masks)
    if folder is None:
        dataset = with_masks(dataset)
    else:
        check_masks(folder, dataset)
    train, held_out = dataset.split_by_segment(settings.data.validation_fraction, seed=settings.seed)
    return LabelledFrames(train, folder), LabelledFrames(held_out, folder)


def _check_depth(dataset: Dataset, settings: DistillSettings) -> None:
    if not uses_depth(settings.model.name, settings.model.arguments):
        return
    if not dataset.has_depth:
        raise ConfigError(
            f"{settings.data.path} has no depth, which the network uses (model.arguments.inputs=rgbd): record depth, "
            "or train on colour alone (inputs=rgb)"
        )
    if dataset.depth_kind != "metric":
        raise ConfigError(
            f"{settings.data.depth} holds {dataset.depth_kind} depth; a network that uses depth (model.arguments.inputs"
            "=rgbd) expects metres, as the robot's sensor gives: leave data.depth out, or train on colour alone"
        )


def _scores(
    model: LoadedModel, held_out: LabelledFrames, settings: CamSettings
) -> tuple[MaskScore | None, MaskScore | None]:
    """Return how the segmenter, as on the robot, agrees with the held-out masks, and with those that were drawn."""
    classes, threshold = model.info.classes, model.info.threshold
    ours, drawn = MaskEvaluator(len(classes)), MaskEvaluator(len(classes))
    for frame in score_frames(model, held_out.dataset, settings):
        found, labelled = predict_mask(frame.scores, None, threshold.value), held_out.with_mask(frame.sample)
        for masks, truth in ((ours, labelled.mask), (drawn, frame.sample.mask)):
            if truth is not None:
                masks.update(found, truth, frame.sample.key)

    def score(masks: MaskEvaluator) -> MaskScore | None:
        if not masks.confusion.counts.any():
            return None
        return masks.score(classes, rule=threshold.rule, threshold=threshold.value)

    return score(ours), score(drawn)


def _try_out(network: nn.Module, settings: DistillSettings) -> None:
    """Pass one image through, forward and backward, as `trainer` does of a CAM network, for the same reasons."""
    size = settings.data.image_size
    try:
        with evaluating(network), torch.enable_grad():
            depth = torch.zeros(1, 1, *size) if network.uses_depth else None
            output: SegmenterOutput = network(torch.zeros(1, 3, *size), depth)
            output.logits.sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the network cannot take images of {size[0]}x{size[1]} (data.image_size): {reason}"
        ) from error
    leave_unused_alone(network)
