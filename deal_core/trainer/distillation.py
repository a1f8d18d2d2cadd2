"""Training of a run-time segmenter on pseudo masks or on drawn masks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset, FrameRecord, evenly_spread, has_class, masks_without_class, with_masks
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError
from deal_core.evaluation.evaluate import add_up, count_mask
from deal_core.evaluation.metrics import MaskEvaluator, MaskScore
from deal_core.evaluation.result import score_to_json
from deal_core.losses.clipping import clipped_cross_entropy
from deal_core.losses.depth_edge import DepthEdgeAlignmentLoss
from deal_core.masks.decide import predict_mask, strongest_channel
from deal_core.masks.mask_folder import cam_paths, check_masks, frames_with_masks, read_mask, write_cams
from deal_core.masks.refine.background import ARGMAX_THRESHOLD
from deal_core.masks.score_dataset import CamSettings, ScoredFrame, score_frames
from deal_core.models.backbone import InitialWeights
from deal_core.models.domain_change import FineTuneReport
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.model_info import is_segmenter, names_regions, uses_depth
from deal_core.models.output import SegmenterOutput
from deal_core.structures import UNLABELLED, ClassList, DepthKind, Sample
from deal_core.trainer.figures import MAX_FRAMES
from deal_core.trainer.loop import Progress, begin_step, end_step, evaluating
from deal_core.trainer.objective import alignment_loss
from deal_core.trainer.run_folder import TrainState, as_begun, write_whole
from deal_core.trainer.settings import ClipSettings, DealSettings, DistillSettings
from deal_core.trainer.task import Shown, run_task
from deal_core.trainer.views import output_of, plain_batches

REHEARSAL_MASKS = "rehearsal_masks"
"""In the run folder: masks of the frames of `data.rehearse` by the model of `init_from`."""
REPORT_FILE = "distill.json"
"""In the run folder: the content of `DistillResult.to_json`."""


@dataclass(frozen=True)
class Round:
    """One round of a distillation, see `deal_core.trainer.rounds`; scores are those of `deal_core.quality`, in [0, 1].

    Args:
        number: Number of the round, from 1.
        masks: Folder of the masks from which its student learnt.
        taught: Score of these masks.
        own: Score of the masks that the student makes, gated by tags and depth.
    """

    number: int
    masks: str
    taught: float
    own: float


@dataclass(frozen=True)
class DistillResult:
    """The result of a training.

    Args:
        model: Path of the model file.
        steps: Number of optimiser steps.
        resumed_from: Step of the checkpoint from which the run resumed; 0 for a fresh run.
        training_frames: Number of training frames.
        held_out_frames: Number of held-out frames.
        agreement: Score against the training masks of the held-out frames; None without held-out frames.
        drawn: Score against the drawn masks of the held-out frames; None without drawn masks.
        agreement_without_depth: `agreement` when the network gets no depth; None if it uses no depth.
        drawn_without_depth: `drawn` when the network gets no depth; None if it uses no depth.
        initial_weights: Where the first weights of the encoder came from; None if it is not known.
        report: What was gained and lost since the model of `init_from`; None without one.
        rounds: The rounds, if there may be several.
        kept_round: Number of the round whose model this is.
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
    initial_weights: InitialWeights | None = None
    report: FineTuneReport | None = None
    rounds: tuple[Round, ...] = ()
    kept_round: int = 1

    def scores(self) -> dict[str, MaskScore]:
        """Return the scores that are not None, by name."""
        names = ("agreement", "drawn", "agreement_without_depth", "drawn_without_depth")
        found = {name: getattr(self, name) for name in names}
        return {name: score for name, score in found.items() if score is not None}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; of the scores that are None, it holds only `agreement` and `drawn`, as null."""
        return {
            "model": str(self.model),
            "steps": self.steps,
            "resumed_from": self.resumed_from,
            "training_frames": self.training_frames,
            "held_out_frames": self.held_out_frames,
            "agreement": None,
            "drawn": None,
            **{name: score_to_json(score) for name, score in self.scores().items()},
            **({"fine_tune": self.report.to_json()} if self.report else {}),
            **({"rounds": [asdict(one) for one in self.rounds], "kept_round": self.kept_round} if self.rounds else {}),
        }


def distill_once(
    settings: DistillSettings, report: Callable[[Progress], None] = lambda progress: None
) -> DistillResult:
    """Train one round in `settings.output`, or resume it.

    Raises:
        DatasetError: the dataset cannot be read, or masks are missing, damaged, of another size or for other classes.
        ConfigError: the network is no segmenter; the run folder holds another run; the settings do not fit the data,
            the network or this machine; or the network uses depth and the dataset has none in metres.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
    """
    _require_segmenter(settings.model.name)
    settings = as_begun(settings)
    _require_segmenter(settings.model.name)
    done = run_task(Distillation(settings), report)
    model = LoadedModel(done.network, done.info, sha256="")
    how = CamSettings(tags="predicted", flip=False, device=str(done.fabric.device))
    with evaluating(done.network):
        scores = _scores(model, done.held_out, how)
        without_depth = (
            _scores(model, done.held_out, replace(how, depth_fails=True)) if done.info.uses_depth else (None, None)
        )
    numbers = (done.steps, done.resumed_from, len(done.frames), len(done.held_out))
    weights: InitialWeights = getattr(done.network.backbone, "initial_weights")  # noqa: B009 (not a tensor or module)
    result = DistillResult(done.model, *numbers, *scores, *without_depth, weights, done.report)
    if done.fabric.is_global_zero:
        write_whole(settings.output / REPORT_FILE, json.dumps(result.to_json(), indent=2) + "\n")
    return result


@dataclass(frozen=True)
class Distillation:
    """The training of a segmenter on masks, as `deal_core.trainer.task.Task` describes it."""

    settings: DistillSettings
    figure = "IoU with masks"

    def split(self, dataset: Dataset) -> tuple[LabelledFrames, LabelledFrames]:
        """Return the training frames and the held-out frames, with their masks.

        Raises:
            ConfigError: the network uses depth, and the dataset has none in metres.
            DatasetError: the folder of masks is incomplete or is for other classes, or no drawn mask contains a class.
        """
        _check_depth(dataset, self.settings)
        sources = self.settings.mask_sources
        if sources == (None,):
            dataset = with_masks(dataset)
        dataset = _with_sources(dataset, sources, may_lack=isinstance(self.settings.masks, tuple))
        if None in sources:
            _require_drawn_classes(with_masks(dataset))
        train, held_out = dataset.split_by_segment(self.settings.data.validation_fraction, seed=self.settings.seed)
        return LabelledFrames(train, sources), LabelledFrames(held_out, sources)

    def prepare(self, network: nn.Module, frames: LabelledFrames) -> None:
        """Leave the first weights as they are."""

    def frame_weights(self, frames: LabelledFrames) -> list[float] | None:
        """Return the weight of the source of each frame's mask; None, each frame once per epoch, without weights."""
        weights = self.settings.mask_weights
        if weights is None:
            return None
        return [weights[frames.source_of(frame)] for frame in frames.dataset.frames]

    def shown(self, frames: LabelledFrames, old: LabelledFrames | None) -> Shown:
        """Return the frames with their training masks."""
        return Shown(frames, old, with_mask=True)

    def outputs(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """Return the logits."""
        depth = torch.zeros(1, 1, *image.shape[-2:]) if network.uses_depth else None
        output: SegmenterOutput = network(image, depth)
        return [output.logits]

    def objective(self, network: nn.Module, depth_kind: DepthKind) -> MaskObjective:
        """Return the network together with the mask loss."""
        weight = self.settings.edge_weight
        edges = alignment_loss(DealSettings(), self.settings.data.image_size, depth_kind) if weight else None
        return MaskObjective(network, self.settings.clip, edges, weight or 0.0)

    def step(
        self, fabric: Fabric, objective: Any, optimizer: Optimizer, batch: TensorSample, state: TrainState
    ) -> dict[str, float]:
        """Make one optimiser step and return the losses of this process as plain numbers."""
        rate = begin_step(fabric, optimizer, state, self.settings)
        return {**end_step(fabric, optimizer, objective(batch, state.step / state.total_steps), state), "lr": rate}

    def held_out_figures(self, network: nn.Module, held_out: LabelledFrames, device: torch.device) -> dict[str, float]:
        """Return the loss on the held-out frames and the share of labelled pixels that agree with their masks."""
        losses, right, known = 0.0, 0, 0
        with evaluating(network):
            for batch in plain_batches(held_out, self.settings, device, with_mask=True, network=network):
                logits, mask = _logits_and_mask(network, batch)
                is_known = mask != UNLABELLED
                losses += float(F.cross_entropy(logits.float(), mask.long(), ignore_index=UNLABELLED, reduction="sum"))
                right += int(((strongest_channel(logits) == mask) & is_known).sum())
                known += int(is_known.sum())
        return {"held_out_loss": losses / max(known, 1), "held_out_agreement": right / max(known, 1)}

    def facts(self) -> Mapping[str, str]:
        """Return the source of the training masks."""
        given = self.settings.masks
        return {"masks": ", ".join(map(str, given)) if isinstance(given, tuple) else str(given)}

    def threshold(self, network: nn.Module, info: ModelInfo, frames: LabelledFrames, device: torch.device) -> Threshold:
        """Return the threshold at which a pixel goes to the stronger of class and background."""
        return Threshold(ARGMAX_THRESHOLD, "argmax")

    def figures(
        self,
        network: nn.Module,
        threshold: Threshold,
        frames: LabelledFrames,
        held_out: LabelledFrames,
        device: torch.device,
    ) -> Mapping[str, Any]:
        """Return nothing: `DistillResult` has the figures of the held-out frames."""
        return {}

    def old_frames(self, dataset: Dataset, earlier: LoadedModel) -> tuple[LabelledFrames, LabelledFrames]:
        """Return the training frames and the held-out frames with the masks that `rehearse_masks` names.

        The masks of the earlier model are written to the run folder first.
        """
        masks, classes = self.settings.rehearse_masks, dataset.classes
        _check_depth(dataset, self.settings)
        if masks == "drawn":
            dataset = with_masks(dataset)
        elif masks == "model":
            dataset, classes, masks = dataset.with_classes(earlier.info.classes), earlier.info.classes, self._old_masks
            how = CamSettings(tags="predicted", flip=False, device=self.settings.device)
            for _ in write_cams(earlier, dataset, masks, how):
                pass
        else:
            check_masks(masks, dataset)
        train, held_out = dataset.split_by_segment(self.settings.data.validation_fraction, seed=self.settings.seed)
        sources = (None if masks == "drawn" else masks,)
        return LabelledFrames(train, sources, classes), LabelledFrames(held_out, sources, classes)

    @property
    def _old_masks(self) -> Path:
        return self.settings.output / REHEARSAL_MASKS

    def class_figures(
        self, model: LoadedModel, frames: LabelledFrames, device: torch.device
    ) -> dict[str, float | None]:
        """Return the IoU of each class with the drawn masks or, where there are none, with the training masks."""
        few = replace(frames, dataset=evenly_spread(frames.dataset, MAX_FRAMES))
        how = CamSettings(tags="predicted", flip=False, device=str(device))
        with evaluating(model.network):
            agreement, drawn = _scores(model, few, how)
        score = drawn or agreement
        return {} if score is None else {each.name: _number(each.iou) for each in score.classes}


def _require_segmenter(name: str) -> None:
    if not is_segmenter(name):
        kind = "`deal regions`" if names_regions(name) else "`deal train`"
        raise ConfigError(f"model.name: expected segmenter, found {name}, which {kind} trains")


def _require_drawn_classes(dataset: Dataset) -> None:
    """Raise `DatasetError` if frames are tagged and none of their masks contains a class."""
    tagged = [frame for frame in dataset.frames if frame.tags.present]
    masks = (dataset.load(frame).mask for frame in tagged)  # in most datasets, the first one has a class
    if tagged and not any(mask is not None and has_class(mask) for mask in masks):
        raise masks_without_class(dataset.path, dataset.classes)


class MaskObjective(nn.Module):
    """A segmenter together with its loss.

    Args:
        network: Network that returns a `SegmenterOutput`.
        clip: Clipping of large losses.
        edges: Edge loss on the probabilities of the classes that the tags name; None for none.
        edge_weight: Factor of the edge loss.
    """

    def __init__(
        self,
        network: nn.Module,
        clip: ClipSettings,
        edges: DepthEdgeAlignmentLoss | None = None,
        edge_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.clip = clip
        self.edges = edges
        self.edge_weight = edge_weight

    def forward(self, batch: TensorSample, position: float) -> dict[str, Tensor]:
        """Return `loss` and `clipped`, the share of labelled pixels with a clipped loss; with edges, `loss_edges`.

        Args:
            batch: Views with masks.
            position: Position in the training, in [0, 1).
        """
        logits, mask = _logits_and_mask(self.network, batch)
        below = self.clip.below if position >= self.clip.start else 0.0
        loss, clipped = clipped_cross_entropy(logits, mask, below=below, cells=self.clip.cells)
        if self.edges is None:
            return {"loss": loss, "clipped": clipped}
        scores = logits.float().softmax(1)[:, 1:]
        edges = self.edges(scores, batch.depth, batch.tags, batch.valid)
        return {"loss": loss + self.edge_weight * edges, "clipped": clipped, "loss_edges": edges}


@dataclass(frozen=True)
class LabelledFrames:
    """Frames of a dataset with the training masks.

    Args:
        dataset: The frames.
        sources: Folders of masks, None for the drawn masks of the dataset; the first one with a mask of a frame counts.
        mask_classes: Classes of the masks in the folders; None for those of the dataset.
    """

    dataset: Dataset
    sources: tuple[Path | None, ...]
    mask_classes: ClassList | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, frame: int) -> Sample:
        """Read one frame; raise `DatasetError` if a file is missing or damaged, or the mask does not fit."""
        return self.with_mask(self.dataset.load(frame))

    def source_of(self, frame: FrameRecord) -> int:
        """Return the index of the source of the mask of a frame."""
        return _source_of(frame.key, frame.mask is not None, self.sources)

    def with_mask(self, sample: Sample) -> Sample:
        """Return a sample of the dataset with its training mask."""
        folder = self.sources[_source_of(sample.key, sample.mask is not None, self.sources)]
        if folder is None:
            return sample
        classes = self.mask_classes or self.classes
        mask = read_mask(folder, sample.key, sample.image.shape[:2], len(classes))
        return replace(sample, mask=mask if classes.names == self.classes.names else classes.ids_in(self.classes)[mask])

    @property
    def classes(self) -> ClassList:
        """Classes of the masks of the samples."""
        return self.dataset.classes

    def with_classes(self, classes: ClassList) -> LabelledFrames:
        """Return the same frames for other classes; pixels of a class that is not among them become background."""
        return replace(self, dataset=self.dataset.with_classes(classes), mask_classes=self.mask_classes or self.classes)


def _source_of(key: str, is_drawn: bool, sources: tuple[Path | None, ...]) -> int:
    """Return the index of the first source with a mask of a frame, or of the last source."""
    has_mask = (is_drawn if folder is None else cam_paths(folder, key)[1].is_file() for folder in sources)
    return next((index for index, has in enumerate(has_mask) if has), len(sources) - 1)


def _with_sources(dataset: Dataset, sources: tuple[Path | None, ...], *, may_lack: bool) -> Dataset:
    """Return the frames that a source has a mask of.

    Args:
        dataset: The frames.
        sources: Folders of masks, None for the drawn masks.
        may_lack: Whether frames without a mask are left out, and are no error.

    Raises:
        DatasetError: a folder is no folder of masks, is for other classes, or has a mask of no frame; or frames lack
            masks.
    """
    if not may_lack:
        if sources[0] is not None:
            check_masks(sources[0], dataset)
        return dataset
    found: set[str] = set()
    for folder in sources:
        if folder is None:
            found |= {frame.key for frame in with_masks(dataset).frames}
            continue
        found |= {frame.key for frame in frames_with_masks(folder, dataset).frames}
    return dataset.subset(predicate=lambda frame: frame.key in found)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _logits_and_mask(network: nn.Module, batch: TensorSample) -> tuple[Tensor, Tensor]:
    """Return the logits (B, K + 1, H, W) at the size of the masks (B, H, W)."""
    assert batch.mask is not None  # the views were made with masks
    output: SegmenterOutput
    if network.uses_depth:
        output = network(batch.image.contiguous(memory_format=torch.channels_last), batch.depth)
    else:
        output = output_of(network, batch)
    return F.interpolate(output.logits, batch.mask.shape[1:], mode="bilinear", align_corners=False), batch.mask


def _check_depth(dataset: Dataset, settings: DistillSettings) -> None:
    if settings.edge_weight and not dataset.has_depth:
        raise ConfigError(f"edge_weight needs depth, and {settings.data.path} has none: estimate it with `deal depth`")
    if not uses_depth(settings.model.name, settings.model.arguments):
        return
    if not dataset.has_depth:
        raise ConfigError(
            f"{settings.data.path} has no depth, which the network uses (model.arguments.inputs=rgbd): record depth, "
            "or train on colour only (inputs=rgb)"
        )
    if dataset.depth_kind != "metric":
        raise ConfigError(
            f"{settings.data.depth} holds {dataset.depth_kind} depth, but a network with model.arguments.inputs=rgbd "
            "expects metres, as the robot's sensor gives: leave data.depth out, or train on colour only"
        )


def _scores(
    model: LoadedModel, held_out: LabelledFrames, settings: CamSettings
) -> tuple[MaskScore | None, MaskScore | None]:
    """Return the scores against the training masks and the drawn masks, for predictions as the robot makes them."""
    classes, threshold = model.info.classes, model.info.threshold

    def count(frame: ScoredFrame) -> tuple[MaskEvaluator, MaskEvaluator]:
        found, key = predict_mask(frame.scores, None, threshold.value), frame.sample.key
        ours, drawn = held_out.with_mask(frame.sample).mask, frame.sample.mask
        return count_mask(found, ours, key, len(classes)), count_mask(found, drawn, key, len(classes))

    def score(masks: MaskEvaluator) -> MaskScore | None:
        is_empty = not masks.confusion.counts.any()
        return None if is_empty else masks.score(classes, rule=threshold.rule, threshold=threshold.value)

    totals = MaskEvaluator(len(classes)), MaskEvaluator(len(classes))
    ours, drawn = add_up(totals, map(count, score_frames(model, held_out.dataset, settings)))
    return score(ours), score(drawn)
