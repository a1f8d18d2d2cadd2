"""Settings of a training: a YAML file, dotted overrides, and every key validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deal_core.errors import ConfigError, nearest_hint
from deal_core.losses.depth_edge import CamEdge, CamValue, DepthEdge, DepthSlope, DepthValue


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _refuse_falling(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("expected the smaller value first")
    return bounds


# YAML reads yes and on as true, and true would pass for 1.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Number = Annotated[float, BeforeValidator(_refuse_bool)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
PositiveFraction = Annotated[Number, Field(gt=0, le=1)]
NotNegative = Annotated[Number, Field(ge=0)]
PositiveWhole = Annotated[Whole, Field(ge=1)]
Size = tuple[Annotated[Whole, Field(ge=16)], Annotated[Whole, Field(ge=16)]]
EdgeSize = tuple[Annotated[Whole, Field(ge=3)], Annotated[Whole, Field(ge=3)]]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _group_without_values(cls, value: Any) -> Any:
        """Take a group whose keys are all commented out as one that changes nothing."""
        return {} if value is None else value


class SourceSettings(Settings):
    """Which images to read, in which layout."""

    path: Path
    """The dataset folder."""
    format: Literal["deal", "voc", "coco", "bop"] = "deal"
    """Its layout: `deal extract`'s, or the official one of PASCAL VOC, MS COCO or a BOP dataset."""
    split: str = ""
    """Which list of it: train, train_aug, val of VOC; train2014, val2014 of COCO; a folder such as onboarding_static
    of BOP. The layout's training list when left out; a deal dataset has none."""
    recordings: tuple[str, ...] = ()
    """Which recordings (of a deal dataset) or sequences (of BOP); all when empty."""
    depth: Path | None = None
    """Folder of depth maps made by `deal depth`, in place of the sensor's; VOC and COCO have no other."""
    class_ids: Literal["contiguous", "category"] = "contiguous"
    """Of COCO: 80 classes without gaps, or one for each category id 1 to 90."""


class DataSettings(SourceSettings):
    """What to train on, and how images are changed on the way."""

    validation_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Share of the segments held out to watch the tag loss; no masks are ever read in training."""
    image_size: Size = (240, 320)
    """(height, width) the network works at."""
    crop: Literal["resized", "canvas"] = "resized"
    """A random part of the image enlarged to `image_size`; or the image at a random `long_side`, of which a window
    of `image_size` is taken (and filled up with ImageNet's mean colour where it is smaller), as SEAM does."""
    crop_scale: Annotated[tuple[PositiveFraction, PositiveFraction], AfterValidator(_refuse_falling)] = (0.5, 1.0)
    """Of a resized crop: smallest and largest share of the image's area that it keeps; (1, 1) switches it off."""
    crop_shape: Literal["image", "network"] = "image"
    """Of a resized crop: its shape is near that of the image, or of `image_size`, as timm has it."""
    crop_stretch: Annotated[Number, Field(ge=1)] = 4 / 3
    """Of a resized crop: how far its shape may differ from that of `crop_shape`, as a factor on width / height."""
    long_side: Annotated[tuple[PositiveWhole, PositiveWhole], AfterValidator(_refuse_falling)] = (448, 768)
    """Of a canvas crop: smallest and largest length of the image's longer side, pixels."""
    flip: bool = True
    """Mirror half of the images."""
    rotation: NotNegative = 0.0
    """Largest random rotation, degrees; what is rotated in from outside has no depth."""
    color_jitter: Fraction = 0.3
    """Strength of random changes of brightness, contrast and saturation."""
    color_hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Strength of random changes of hue, as a share of the colour circle."""
    rand_augment: Annotated[Whole, Field(ge=0)] = 0
    """Operations of RandAugment an image, each made with probability 0.5; depth follows those that move pixels."""
    rand_augment_magnitude: Annotated[Number, Field(ge=0, le=10)] = 9.0
    """How strong they are."""
    erase: Fraction = 0.0
    """Share of the images in which a random box is replaced by noise, and its depth by none."""
    workers: Annotated[Whole, Field(ge=0)] = 0
    """Processes that load images beside the training process."""
    cache: bool = False
    """Keep decoded images in memory, made no larger than the random views of them need."""


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


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Read settings from a YAML file and dotted overrides such as `deal.weight=0.1`; an override wins.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or out of range. The message names
            the key, what was expected and found, and for an unknown one the nearest that exists.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = str(path) if path else "settings"
        lines = [_explain(kind, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def dump_settings(settings: Settings) -> str:
    """Return the settings as YAML that `load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read this settings file ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that gives a key twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _apply(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"expected an override like deal.weight=0.1, found '{override}'")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        child = values[parent]
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value, not a group of settings")
        values = child
    try:
        values[last] = yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': the value is not valid YAML ({error})") from None


def _explain(kind: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        return f"unknown key '{key}': expected one of {', '.join(known)}.{nearest_hint(location[-1], known)}"
    if problem["type"] == "missing":
        return f"'{key}' is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}, found {problem['input']!r}"


def _keys_at(kind: type[BaseModel], location: Iterable[str]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation
        candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        kind = next(a for a in candidates if issubclass(a, BaseModel))
    return list(kind.model_fields)
