"""Settings of a training, from a YAML file and dotted overrides; every key is validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deal_core.dataset.settings import DataSettings
from deal_core.losses.depth_edge import CamEdge, CamValue, DepthEdge, DepthResize, DepthSlope, DepthValue, Holes
from deal_core.settings_file import (
    EdgeSize,
    Fraction,
    NotNegative,
    Number,
    Positive,
    PositiveFraction,
    PositiveWhole,
    Settings,
    Whole,
)

Sampling = Literal["plain", "balanced"]


class ModelSettings(Settings):
    """The network; `arguments` go to `deal_core.models.factory.create_model`."""

    name: str = "cam_net"
    arguments: Mapping[str, Any] = {}


class LossSettings(Settings):
    """A loss in addition to the network's own."""

    weight: NotNegative = 0.0
    """Factor of the loss in the total; 0 switches it off."""
    start: Fraction = 0.0
    """Share of the training before the loss starts."""
    warmup: Fraction = 0.0
    """Share of the training over which the weight then grows linearly from 0 to `weight`."""


class MapLossSettings(LossSettings):
    """A loss on one of the network's maps."""

    map: str | None = None
    """Name of the map: cam (cam_net); coarse, fused, fine (weaktr); raw, refined (seam). Default: the raw CAM."""
    through_backbone: bool = True
    """Whether the loss also trains the backbone, or only the layers between the backbone and the map."""


class DealSettings(MapLossSettings):
    """The Depth Edge Alignment Loss in training; `deal_core.losses.depth_edge` describes the options.

    The defaults gave the best results on synthetic tabletops (docs/results.md); they differ from those of the loss.
    """

    weight: NotNegative = 1.0
    start: Fraction = 0.3
    warmup: Fraction = 0.2
    size: EdgeSize | None = None
    """Size (H', W') at which edges are compared; default: a quarter of the image size."""
    mu: Number = 2.5
    """Position of the sign change of g: an edge strength of sigmoid(-mu)."""
    cam_value: CamValue = "above_mean_max"
    """Normalisation of the CAM before edges are computed."""
    cam_edge: CamEdge = "max"
    """Divisor of the CAM edges."""
    depth_value: DepthValue = "inverse_min_max"
    """Normalisation of the depth before edges are computed."""
    depth_edge: DepthEdge = "bound"
    """Divisor of the depth edges."""
    depth_slope: DepthSlope = "remove"
    """Whether the slope of the largest surface counts as an edge."""
    depth_gain: Positive = 3.0
    """Factor on the strength of depth edges."""
    depth_resize: DepthResize = "antialias"
    """How depth gets the size at which edges are compared."""
    holes: Holes = "fill"
    """Whether cells beside pixels without depth count, as far as the depth filled in there can be trusted."""


class IslSettings(LossSettings):
    """The importance sampling loss (Jonnarth et al. 2024), on the raw CAM."""

    weight: Fraction = 0.0
    """Share of this loss in the tag loss of the raw CAM; published: 0.2."""
    samples: PositiveWhole = 10
    """Number of cells drawn per class and image."""


class FslSettings(MapLossSettings):
    """The feature similarity loss (Jonnarth et al. 2024); published weights: 1 on VOC, 0.2 on COCO."""

    mu: Number = 2.5
    """Pixels with a colour difference below sigmoid(-mu) should have one class, other pixels two."""
    sigma: Positive = 40.0
    """Range of the comparison, in pixels of the network's input (published with an input of 448)."""


class TapLossSettings(LossSettings):
    """The loss on the activation outside of what taps and boxes show; without them it has no effect."""

    weight: NotNegative = 1.0


class OptimizerSettings(Settings):
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Whether SGD uses Nesterov momentum."""
    weight_decay: NotNegative = 0.01
    decay_all: bool = False
    """Whether weight decay also applies to biases and normalisation layers."""
    backbone_factor: NotNegative | None = None
    """Factor on the learning rate of the backbone; 0 freezes it; default: 0.1 if it is pretrained, else 1."""
    layer_decay: PositiveFraction = 1.0
    """Factor on the learning rate of each layer of the backbone relative to the layer after it; below 1, early layers,
    which are much the same for all domains, learn more slowly."""
    head_factor: Positive = 1.0
    """Factor on the learning rate of the other layers."""
    bias_factor: Positive = 1.0
    """Additional factor on the learning rate of biases."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: Fraction = 0.05
    """Share of the training over which the learning rate grows linearly from `warmup_from`."""
    warmup_from: NotNegative = 0.0
    warmup_first: bool = True
    """Whether the schedule begins after the warm-up or, as in timm, together with it."""
    floor: NotNegative = 0.0
    """Learning rate at the end of the schedule."""
    every: Literal["step", "epoch", "epoch_late"] = "step"
    """When the rate changes: each step, each epoch, or, as in timm, each epoch with the rate of the previous one."""
    poly_power: Positive = 0.9


class RunSettings(Settings):
    """Settings of every training."""

    data: DataSettings
    output: Path
    """Run folder; an interrupted run in it is resumed."""
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    epochs: Annotated[Whole, Field(ge=1)] = 20
    batch_size: Annotated[Whole, Field(ge=1)] = 16
    """Images per step, over all processes."""
    seed: Annotated[Whole, Field(ge=0)] = 11
    device: str = "auto"
    """auto, cpu, cuda, cuda:1; each process of torchrun takes one GPU."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_every: Annotated[Whole, Field(ge=0)] = 0
    """Steps between checkpoints; 0 writes a checkpoint after each epoch."""
    log_every: Annotated[Whole, Field(ge=1)] = 20
    """Steps between two lines of history.jsonl."""
    init_from: Path | None = None
    """Model file (.safetensors) of an earlier training, from which this one starts: classes are mapped by name, and new
    ones start fresh. The network is that of the file."""
    max_loss_on_old: Fraction | None = None
    """Largest fall, on the dataset of `data.rehearse`, of the figure of `fine_tune.json`; a larger one fails the run,
    whose model is kept."""
    compile: bool = False
    """Whether PyTorch compiles the network (`torch.compile`): needs a C++ compiler and a minute at the start."""


class TrainSettings(RunSettings):
    """Settings of the training of a CAM network on tags and depth."""

    deal: DealSettings = DealSettings()
    isl: IslSettings = IslSettings()
    fsl: FslSettings = FslSettings()
    taps: TapLossSettings = TapLossSettings()
    bias_from_tags: bool = False
    """Whether the tag logit of a class starts at the log-odds of its share of the tags, if the network has a bias."""
    sampling: Sampling = "balanced"
    """Whether an epoch shows every frame once, or frames with rare tags more often than others ("balanced")."""
    threshold_rule: str = "depth_relief"
    """Rule that chooses the background threshold on the training images, without masks."""


class ClipSettings(Settings):
    """Clipping of large losses, which occur at errors of pseudo masks; see `deal_core.losses.clipping`."""

    below: NotNegative = 0.0
    """Mean loss of a batch below which clipping applies; 0, the default, turns clipping off; published: 1.2."""
    start: Fraction = 0.5
    """Share of the training without clipping. At first, rare classes have losses as large as wrong masks later."""
    cells: Annotated[Whole, Field(ge=1, le=16)] = 4
    """Cells along each side of the grid over which the mean is taken."""


class SegmenterSettings(ModelSettings):
    """The network to distil."""

    name: str = "segmenter"


class DistillSettings(RunSettings):
    """Settings of the training of a run-time segmenter on masks."""

    masks: Literal["drawn"] | Path | tuple[Literal["drawn"] | Path, ...]
    """Folder of masks by `deal cams` or `deal masks import`, or "drawn" for the drawn masks of the dataset. Of a list,
    `[corrected, teacher]`, a frame takes its mask from the first source that has it, and is left out without one."""
    model: SegmenterSettings = SegmenterSettings()
    rehearse_masks: Literal["model", "drawn"] | Path = "model"
    """Masks of the frames of `data.rehearse`: those that the model of `init_from` makes, the drawn ones, or a folder of
    pseudo masks by `deal cams`."""
    clip: ClipSettings = ClipSettings()
    batch_size: Annotated[Whole, Field(ge=2)] = 16
    """Images per step, over all processes; at least 2, since some decoders normalise over the batch."""
    mask_weights: tuple[Positive, ...] | None = None
    """How often an epoch shows a frame of each source of `masks`, relative to the others; default: all equally."""
    edge_weight: NotNegative | None = None
    """Factor of the edge loss on the scores of the tagged classes, which guides boundaries to steps in depth; default:
    no edge loss."""
    rounds: PositiveWhole = 1
    """Largest number of rounds: after each, the masks of the student teach the next one if they are judged better."""

    @property
    def mask_sources(self) -> tuple[Path | None, ...]:
        """The folders of masks, the first one first; None stands for the drawn masks of the dataset."""
        given = self.masks if isinstance(self.masks, tuple) else (self.masks,)
        return tuple(None if source == "drawn" else Path(source) for source in given)

    @model_validator(mode="after")
    def _weights_of_sources(self) -> DistillSettings:
        sources = self.mask_sources
        if not sources or len(set(sources)) < len(sources):
            raise ValueError("masks: expected at least one source, each once")
        if self.mask_weights is not None and len(self.mask_weights) != len(sources):
            raise ValueError(f"mask_weights: expected one for each of the {len(sources)} sources of masks")
        return self
