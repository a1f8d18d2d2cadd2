"""Settings of a training: a YAML file, dotted overrides, and every key validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from deal_core.dataset.settings import DataSettings
from deal_core.losses.depth_edge import CamEdge, CamValue, DepthEdge, DepthSlope, DepthValue
from deal_core.settings_file import (
    EdgeSize,
    Fraction,
    NotNegative,
    Number,
    Positive,
    PositiveWhole,
    Settings,
    Whole,
)


class ModelSettings(Settings):
    """The network; `arguments` go to `deal_core.models.factory.create_model`."""

    name: str = "cam_net"
    arguments: Mapping[str, Any] = {}


class LossSettings(Settings):
    """A loss that is added to the network's own."""

    weight: NotNegative = 0.0
    """Factor of the loss in the total; 0 switches it off."""
    start: Fraction = 0.0
    """Share of the training after which the loss comes in."""
    warmup: Fraction = 0.0
    """Share of the training over which its weight then grows linearly to the full one."""


class MapLossSettings(LossSettings):
    """A loss that acts on one of the network's maps."""

    map: str | None = None
    """Its name: cam of cam_net; coarse, fused, fine of weaktr; raw, refined of seam. The raw CAM when left out."""
    through_backbone: bool = True
    """Whether the loss trains the backbone too, or only what lies between it and the map."""


class DealSettings(MapLossSettings):
    """The Depth Edge Alignment Loss in training; see `deal_core.losses.depth_edge` for the choices.

    The defaults are what helped most on synthetic tabletops (docs/results.md), not the loss function's own.
    """

    weight: NotNegative = 1.0
    start: Fraction = 0.3
    warmup: Fraction = 0.2
    size: EdgeSize | None = None
    """(H', W') at which edges are compared; a quarter of the image size when left out."""
    mu: Number = 2.5
    """Where g changes sign: at an edge strength of sigmoid(-mu)."""
    cam_value: CamValue = "relu_max"
    """What of the CAM is compared."""
    cam_edge: CamEdge = "max"
    """What the edges of the CAM are divided by."""
    depth_value: DepthValue = "inverse_min_max"
    """What of the depth is compared."""
    depth_edge: DepthEdge = "bound"
    """What the edges of the depth are divided by."""
    depth_slope: DepthSlope = "remove"
    """Whether the slope of the largest surface counts as an edge."""
    depth_gain: Positive = 3.0
    """Factor on the strength of depth edges."""


class IslSettings(LossSettings):
    """The importance sampling loss (Jonnarth et al. 2024), on the raw CAM."""

    weight: Fraction = 0.0
    """Its share in the tag loss of the raw CAM, whose spatial mean keeps the rest; published: 0.2."""
    samples: PositiveWhole = 10
    """Cells drawn a class and image."""


class FslSettings(MapLossSettings):
    """The feature similarity loss (Jonnarth et al. 2024); published weights: 1 on VOC, 0.2 on COCO."""

    mu: Number = 2.5
    """Colours that differ by less than sigmoid(-mu) should be of one class, others of two."""
    sigma: Positive = 40.0
    """How far pixels compare themselves with others, in pixels of the network's input (448 where published)."""


class OptimizerSettings(Settings):
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    momentum: Fraction = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Of SGD."""
    weight_decay: NotNegative = 0.01
    decay_all: bool = False
    """Apply it to biases and normalisation layers as well."""
    backbone_factor: NotNegative = 1.0
    """Factor on the learning rate of the backbone; 0 freezes its weights."""
    head_factor: Positive = 1.0
    """Factor on the learning rate of the layers behind it."""
    bias_factor: Positive = 1.0
    """A further factor on the learning rate of biases."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: Fraction = 0.05
    """Share of the training over which the learning rate grows linearly from `warmup_from`."""
    warmup_from: NotNegative = 0.0
    warmup_first: bool = True
    """Whether the schedule begins after the warm-up, or runs beneath it from the start (as in timm)."""
    floor: NotNegative = 0.0
    """Learning rate at which the schedule ends."""
    every: Literal["step", "epoch", "epoch_late"] = "step"
    """When the rate changes: each step; each epoch; or each epoch with the rate of the one before (as timm's loop)."""
    poly_power: Positive = 0.9


class RunSettings(Settings):
    """What every training has."""

    data: DataSettings
    output: Path
    """Run folder; a run that stopped there is resumed."""
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    epochs: Annotated[Whole, Field(ge=1)] = 20
    batch_size: Annotated[Whole, Field(ge=1)] = 16
    """Images a step, over all processes."""
    seed: Annotated[Whole, Field(ge=0)] = 11
    device: str = "auto"
    """auto, cpu, cuda, cuda:1; the processes of torchrun each take one GPU."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_every: Annotated[Whole, Field(ge=0)] = 0
    """Steps between checkpoints; 0 writes one after each epoch."""
    log_every: Annotated[Whole, Field(ge=1)] = 20
    """Steps between two lines of history.jsonl."""


class TrainSettings(RunSettings):
    """One training of a CAM network from tags and depth."""

    deal: DealSettings = DealSettings()
    isl: IslSettings = IslSettings()
    fsl: FslSettings = FslSettings()
    threshold_rule: str = "depth_relief"
    """Rule that chooses the background threshold from the training images, without masks."""


class ClipSettings(Settings):
    """Clipping of large losses, which are where pseudo masks are wrong; see `deal_core.losses.clipping`."""

    below: NotNegative = 1.2
    """Mean loss of a batch from which on is clipped; 0 never clips."""
    start: Fraction = 0.5
    """Share of the training before which nothing is clipped. A class that is rare or learned late has a large loss at
    first, as a wrong mask has later."""
    cells: Annotated[Whole, Field(ge=1, le=16)] = 4
    """Along each side of the grid over the images in whose cells the mean is taken."""


class SegmenterSettings(ModelSettings):
    """The network that is distilled."""

    name: str = "segmenter"


class DistillSettings(RunSettings):
    """One training of a run-time segmenter from pseudo masks."""

    masks: Literal["drawn"] | Path
    """Folder of pseudo masks made by `deal cams`, or "drawn": the masks that somebody drew, where there are some."""
    model: SegmenterSettings = SegmenterSettings()
    clip: ClipSettings = ClipSettings()
    batch_size: Annotated[Whole, Field(ge=2)] = 16
    """Images a step, over all processes; some decoders normalise over the batch."""
