"""Training of CAM networks on tags and depth; it reads no masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.dataset.tag_notes import tag_notes
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError, DatasetError, EvaluationError
from deal_core.losses.tags import tag_loss
from deal_core.masks.score_dataset import CamSettings, choose_threshold
from deal_core.masks.threshold_rules import FixedRule, create_rule, need_depth_for_rule
from deal_core.models.backbone import InitialWeights
from deal_core.models.domain_change import FineTuneReport, balanced_tag_accuracy
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.model_info import is_segmenter, names_regions
from deal_core.models.output import CamOutput
from deal_core.structures import DepthKind
from deal_core.taps.masks import TapMasks
from deal_core.trainer.figures import (
    FIGURES_KEY,
    MAX_FRAMES,
    TrainingFigures,
    measure_figures,
    rare_tag_weights,
    tag_log_odds,
)
from deal_core.trainer.loop import Progress, begin_step, end_step, evaluating
from deal_core.trainer.objective import LossWeights, Objective, alignment_loss
from deal_core.trainer.run_folder import TrainState, as_begun
from deal_core.trainer.schedule import weight_at
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.tapped_frames import TappedFrames
from deal_core.trainer.task import Shown, ThresholdError, run_task
from deal_core.trainer.views import output_of, plain_batches

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a training."""

    model: Path
    threshold: Threshold
    steps: int
    resumed_from: int
    """Step of the checkpoint from which the run resumed; 0 for a fresh run."""
    figures: TrainingFigures
    """What can be said of the result without masks; the model file holds them too."""
    initial_weights: InitialWeights
    """Where the first weights of the backbone came from."""
    report: FineTuneReport | None = None
    """What was gained and lost since the model of `init_from`; None without one."""


def train(settings: TrainSettings, report: Callable[[Progress], None] = lambda progress: None) -> TrainResult:
    """Train the run in `settings.output`, or resume it.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the run folder holds another run; the settings do not fit the data, the network or this machine;
            or the dataset has no depth for the edge loss.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
        UsageError: the threshold rule reads depth, and the dataset has none.
        EvaluationError: the training is complete, but the rule finds no threshold, and the model is kept with that of
            another rule; or more was lost on the dataset of `data.rehearse` than is accepted.
    """
    create_rule(settings.threshold_rule)  # refuse an unknown rule now, not after the last step
    _refuse_other_networks(settings.model.name)
    settings = as_begun(settings)
    _refuse_other_networks(settings.model.name)
    done = run_task(CamTraining(settings), report)
    figures = TrainingFigures.from_json(done.info.training[FIGURES_KEY])
    weights: InitialWeights = getattr(done.network.backbone, "initial_weights")  # noqa: B009 (not a tensor or module)
    return TrainResult(done.model, done.info.threshold, done.steps, done.resumed_from, figures, weights, done.report)


@dataclass(frozen=True)
class CamTraining:
    """The training of a CAM network, as `deal_core.trainer.task.Task` describes it."""

    settings: TrainSettings
    figure = "balanced tag accuracy"

    def split(self, dataset: Dataset) -> tuple[Dataset, Dataset]:
        """Return the training frames and the held-out frames.

        Raises:
            ConfigError: the edge loss needs depth, and the dataset has none.
            DatasetError: no frame is tagged with a class, or there is one frame only.
            UsageError: the threshold rule needs depth, and the dataset has none.
        """
        data = self.settings.data
        if self.settings.deal.weight > 0 and not dataset.has_depth:
            raise ConfigError(
                f"{data.path} has no depth, which the edge loss needs: estimate it with `deal depth` and set "
                "data.depth to its folder, or train without the loss (deal.weight=0)"
            )
        need_depth_for_rule(self.settings.threshold_rule, dataset)
        train, held_out = dataset.split_by_segment(data.validation_fraction, seed=self.settings.seed)
        _check_tags(train)
        return train, held_out

    def prepare(self, network: nn.Module, frames: Dataset) -> None:
        """Start the tag logits of classes at the log-odds of their tags, where the network has a bias for them."""
        bias = getattr(getattr(network, "classifier", None), "bias", None)
        if self.settings.bias_from_tags and isinstance(bias, Tensor):
            with torch.no_grad():
                bias.copy_(torch.from_numpy(tag_log_odds(frames.tags)))

    def frame_weights(self, frames: Dataset) -> list[float] | None:
        """Return larger weights of frames with rare tags, if the sampling is balanced."""
        if self.settings.sampling == "plain":
            return None
        return [float(weight) for weight in rare_tag_weights(frames.tags)]

    def shown(self, frames: Dataset, old: Dataset | None) -> Shown:
        """Return the frames, with masks of what taps and boxes show if there are some; drawn masks are never read."""
        if not self.settings.taps.weight or not len(taps := TapMasks(frames)):
            return Shown(frames, old, with_mask=False)
        return Shown(TappedFrames(frames, taps), None if old is None else TappedFrames(old, None), with_mask=True)

    def outputs(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """Return the tag logits and every map that a loss or a mask uses."""
        output: CamOutput = network(image)
        losses = (self.settings.deal, self.settings.fsl)
        maps = [output.map(), *(output.map(loss.map, loss.through_backbone) for loss in losses)]
        refined = [] if output.refined is None else [output.refined]
        return [*output.tag_logits.values(), *maps, *refined]

    def objective(self, network: nn.Module, depth_kind: DepthKind) -> Objective:
        """Return the network together with its own losses and the added losses."""
        return Objective(network, self.settings, depth_kind)

    def step(
        self, fabric: Fabric, objective: Any, optimizer: Optimizer, batch: TensorSample, state: TrainState
    ) -> dict[str, float]:
        """Make one optimiser step and return the losses of this process as plain numbers."""
        settings = self.settings
        added, position = (settings.deal, settings.isl, settings.fsl, settings.taps), state.step / state.total_steps
        rate = begin_step(fabric, optimizer, state, self.settings)
        weights = LossWeights(*(weight_at(loss, position) for loss in added))
        losses: dict[str, Tensor] = objective(batch, weights, _tag_share(fabric, batch.tags))
        values = end_step(fabric, optimizer, losses, state)
        return {**values, "lr": rate, "deal_weight": weights.deal}

    def held_out_figures(self, network: nn.Module, held_out: Dataset, device: torch.device) -> dict[str, float]:
        """Return the losses and the share of correct tags on the held-out frames; masks are not read."""
        settings = self.settings
        alignment = alignment_loss(settings.deal, settings.data.image_size, held_out.depth_kind)
        losses, deal, sizes, right, known = [], [], [], 0, 0
        with evaluating(network):
            for batch in plain_batches(held_out, settings, device, network=network):
                output: CamOutput = output_of(network, batch)
                logits = torch.stack(list(output.tag_logits.values())).mean(0)
                losses.append(float(tag_loss(logits, batch.tags)))
                cams = output.map(settings.deal.map, settings.deal.through_backbone)
                deal.append(float(alignment(cams, batch.depth, batch.tags, batch.valid)))
                sizes.append(len(batch.tags))
                is_known = ~torch.isnan(batch.tags)
                right += int((((logits > 0) == (batch.tags == 1)) & is_known).sum())
                known += int(is_known.sum())
        return {
            "held_out_loss_tags": float(np.average(losses, weights=sizes)),
            "held_out_loss_deal": float(np.average(deal, weights=sizes)),
            "held_out_tag_accuracy": right / max(known, 1),
        }

    def facts(self) -> Mapping[str, float]:
        """Return the weights of the added losses."""
        return {f"{name}_weight": getattr(self.settings, name).weight for name in ("deal", "isl", "fsl")}

    def threshold(self, network: nn.Module, info: ModelInfo, frames: Dataset, device: torch.device) -> Threshold:
        """Return the background threshold that the rule of the settings chooses without masks.

        Raises:
            ThresholdError: the rule finds no threshold; it holds that of the first other rule that does.
        """
        cams = CamSettings(device=str(device), batch_size=self.settings.batch_size)
        model = LoadedModel(network, info, sha256="")
        with evaluating(network):
            try:
                return choose_threshold(model, frames, cams, self.settings.threshold_rule)
            except EvaluationError as error:
                instead = _first_that_works(model, frames, cams)
                raise ThresholdError(str(error), instead) from error

    def figures(
        self, network: nn.Module, threshold: Threshold, frames: Dataset, held_out: Dataset, device: torch.device
    ) -> Mapping[str, Any]:
        """Return the `TrainingFigures`."""
        found = measure_figures(network, self.settings, frames, held_out, threshold, device)
        return {FIGURES_KEY: found.to_json()}

    def old_frames(self, dataset: Dataset, earlier: LoadedModel) -> tuple[Dataset, Dataset]:
        """Return the training frames and the held-out frames."""
        return dataset.split_by_segment(self.settings.data.validation_fraction, seed=self.settings.seed)

    def class_figures(self, model: LoadedModel, frames: Dataset, device: torch.device) -> dict[str, float | None]:
        """Return the balanced tag accuracy of each class, see `balanced_tag_accuracy`."""
        data = self.settings.data.model_copy(update={"image_size": model.info.input_size})
        settings = self.settings.model_copy(update={"data": data})
        network, logits, tags = model.network.to(device), [], []
        with evaluating(network):
            for batch in plain_batches(evenly_spread(frames, MAX_FRAMES), settings, device):
                output: CamOutput = network(batch.image)
                logits.append(torch.stack(list(output.tag_logits.values())).mean(0).cpu())
                tags.append(batch.tags.cpu())
        return dict(zip(frames.classes.names, balanced_tag_accuracy(torch.cat(logits), torch.cat(tags)), strict=True))


def _refuse_other_networks(name: str) -> None:
    if is_segmenter(name):
        raise ConfigError(f"model.name={name} needs masks for training: use `deal distill`")
    if names_regions(name):
        raise ConfigError(f"model.name={name} learns from regions: use `deal regions`")


def _check_tags(frames: Dataset) -> None:
    """Refuse frames from whose tags nothing can be learnt, and warn of classes that cannot be learnt."""
    if len(frames) == 1:
        raise DatasetError(
            f"{frames.path} gives 1 training frame, expected at least 2: a class is learnt from frames with and "
            "frames without it"
        )
    if not (frames.tags == 1).any():
        raise DatasetError(
            f"{frames.path}: none of the {len(frames)} training frames is tagged present with a class, and training "
            "learns from tags: tag frames with `deal tag`"
        )
    for note in tag_notes(frames):
        _log.warning(note)


def _first_that_works(model: LoadedModel, frames: Dataset, cams: CamSettings) -> Threshold:
    """Return the threshold of a rule that finds one on any scores, if need be a fixed one."""
    try:
        return choose_threshold(model, frames, cams, "otsu")
    except EvaluationError:
        fixed = FixedRule().threshold()
        return Threshold(fixed, f"fixed:{fixed}")


def _tag_share(fabric: Fabric, tags: Tensor) -> float:
    if fabric.world_size == 1:
        return 1.0
    known = (~torch.isnan(tags)).sum().float()
    mean = float(fabric.all_reduce(known.clone(), reduce_op="mean"))
    return float(known) / mean if mean > 0 else 1.0
