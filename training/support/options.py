"""The options that several commands share, and the typed objects they become.

A command takes a group of options as one parameter, such as `source: SourceOptions`; `spread_options` turns each field
of the group into an option of the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from deal_core.dataset.choices import ClassIds, Layout
from deal_core.masks.choices import ImageSize, Normalisation, Precision, TagSource
from deal_core.masks.refine.choices import Refinement

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.structures import ClassList

ModelArgument = Annotated[Path, typer.Argument(help="Model file (.safetensors).")]
DatasetArgument = Annotated[Path, typer.Argument(help="Dataset folder.")]
LayoutOption = Annotated[Layout, typer.Option("--as", help="Layout of the dataset folder.")]
SplitOption = Annotated[str, typer.Option(help="With --as: name of the image list. Default: the training list.")]
ClassIdsOption = Annotated[ClassIds, typer.Option(help="With --as coco: numbering of the classes.")]
RecordingsOption = Annotated[
    list[str] | None, typer.Option("--recording", help="Use only this recording; may be repeated.")
]
FramesOption = Annotated[int | None, typer.Option(min=1, help="Use at most this many frames, evenly spaced.")]
TagsOption = Annotated[
    TagSource, typer.Option(help="Score the classes tagged in the frame (given), or those that the network predicts.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]
ThresholdRuleOption = Annotated[
    str | None,
    typer.Option(
        help="Choose the background threshold again for these scores: otsu, depth_relief, depth_edges or fixed:0.3."
    ),
]
PicturesOption = Annotated[int, typer.Option(min=0, help="Number of frames to show, starting with the worst.")]
ColorTopicOption = Annotated[str | None, typer.Option(help="Colour topic, if the recording has several.")]
DepthTopicOption = Annotated[str | None, typer.Option(help="Depth topic, if the recording has several.")]
SlopOption = Annotated[
    float,
    typer.Option(min=0, help="Largest time difference of colour and depth in a pair; 0 pairs equal stamps only."),
]
AlignedOption = Annotated[
    bool, typer.Option("--aligned", help="Depth is aligned to colour although its frame has another name.")
]
DepthUnitOption = Annotated[
    str | None,
    typer.Option(
        help="Unit of the recorded depth: auto (16 bit: mm, 32 bit: m), m, mm, 0.1mm or another. "
        "Default: as the recording says, or auto."
    ),
]
MaxDepthOption = Annotated[
    float | None,
    typer.Option(min=0, max=1000, help="Greatest depth that is a measurement, metres; 0 is no limit, the default."),
]
MarkerOption = Annotated[
    Literal["partial", "complete"],
    typer.Option(help="Classes that --tags does not name are unknown (partial) or absent (complete)."),
]


@dataclass(frozen=True)
class SourceOptions:
    """Which frames of a dataset folder to use."""

    layout: LayoutOption = "deal"
    split: SplitOption = ""
    depth: Annotated[
        Path | None, typer.Option(help="Folder of estimated depth maps, used instead of the sensor's depth.")
    ] = None
    class_ids: ClassIdsOption = "contiguous"
    recordings: RecordingsOption = None
    frames: FramesOption = None

    def open(self, path: Path) -> Dataset:
        """Open these frames of the dataset in `path`.

        Raises:
            DatasetError: files are missing or contradict each other.
            UsageError: a split or recording does not exist, or an option does not apply to the layout.
        """
        from deal_core.dataset.dataset import evenly_spread
        from deal_core.dataset.open import open_dataset
        from deal_core.dataset.settings import SourceSettings

        source = SourceSettings(
            path=path,
            format=self.layout,
            split=self.split,
            recordings=tuple(self.recordings or ()),
            depth=self.depth,
            class_ids=self.class_ids,
        )
        opened = open_dataset(source)
        return evenly_spread(opened, self.frames) if self.frames else opened


@dataclass(frozen=True)
class ScoreOptions:
    """How class scores are computed."""

    tags: TagsOption = "given"
    scales: Annotated[str, typer.Option(help="Image scales, separated by commas.")] = "1.0"
    flip: Annotated[bool, typer.Option(help="Score the mirrored image as well.")] = True
    size: Annotated[
        ImageSize, typer.Option(help="Image size at scale 1: the model's input size, or the image's own size.")
    ] = "model"
    normalise: Annotated[
        Normalisation, typer.Option(help="Divide each map by its maximum, or stretch it from minimum to maximum.")
    ] = "max"
    refine: Annotated[
        Refinement,
        typer.Option(
            help="Refine the scores: pixel-adaptive (par), dense CRF (crf), random walk over depth and colour (walk), "
            "regions of depth (regions), or regions where there is depth and colour elsewhere (auto)."
        ),
    ] = "none"
    refine_options: Annotated[
        list[str] | None,
        typer.Option(
            "--refine-option",
            help="Setting of the refinement as key=value; may be repeated. See docs/how_to/pseudo_masks.md.",
        ),
    ] = None
    device: DeviceOption = "auto"
    precision: Annotated[
        Precision,
        typer.Option(help="Numbers of the network: bf16 is faster on GPUs and on processors with AMX, and less exact."),
    ] = "32"

    def settings(self) -> CamSettings:
        """Return the settings that these options give.

        Raises:
            ConfigError: the refinement does not have such an option.
            UsageError: scales are not positive numbers.
        """
        from deal_core.masks.refine.refinement import refinement_settings
        from deal_core.masks.score_dataset import CamSettings

        return CamSettings(
            tags=self.tags,
            scales=parse_scales(self.scales),
            flip=self.flip,
            device=self.device,
            size=self.size,
            normalise=self.normalise,
            refine=refinement_settings(self.refine, self.refine_options or ()),
            precision=self.precision,
        )


@dataclass(frozen=True)
class PageOptions:
    """Where a local web page is served, and who may open it."""

    host: Annotated[
        str, typer.Option(help="Address on which the page is served; 0.0.0.0 allows other devices, such as a phone.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8321
    token: Annotated[
        str,
        typer.Option(help="Token that opens the page. Default: none on this machine only, a random one otherwise."),
    ] = ""


def spread_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of its option groups as parameters of their own.

    typer makes one option of each parameter. A parameter whose type is a dataclass is replaced by the fields of the
    dataclass, and the command receives the dataclass.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    if not groups:
        return command
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))

    @wraps(command)
    def spread(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def parse_classes(text: str) -> ClassList | None:
    """Return the classes of a comma-separated list; None if the list is empty.

    Raises:
        UsageError: `ClassList` refuses the names.
    """
    from deal_core.errors import DatasetError, UsageError
    from deal_core.structures import ClassList

    names = split_list(text)
    try:
        return ClassList(names) if names else None
    except DatasetError as error:
        raise UsageError(f"--classes: {error}") from None


def parse_scales(text: str) -> tuple[float, ...]:
    """Return the scales of a list such as `0.5,1,1.5`.

    Raises:
        UsageError: the text is not a list of positive numbers.
    """
    from deal_core.errors import UsageError

    scales = parse_numbers(text)
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise UsageError(f"--scales: expected positive numbers separated by commas, like 0.5,1,1.5, found '{text}'")
    return scales


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a comma-separated list; an empty tuple if one of them is not a number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()


def parse_pair(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    """Return two whole numbers, such as a size.

    Raises:
        UsageError: the text is something else; `option` names it, and `example` shows what is expected.
    """
    from deal_core.errors import UsageError

    first, found, second = text.strip().lower().partition(separator)
    if not (found and first.strip().isdecimal() and second.strip().isdecimal()):
        raise UsageError(f"{option}: expected two whole numbers like {example}, found '{text}'")
    return int(first), int(second)


def split_list(text: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated list without surrounding space; empty entries are dropped."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
