"""The description of a model: what the header of a model file and of an exported file says about it.

Reading a description needs neither PyTorch nor the network, so that a robot can run an exported model without them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deal_core.errors import DatasetError, ModelFileError, short
from deal_core.limits import over, refuse_over
from deal_core.models.header import HeaderError, entry, read_header
from deal_core.structures import ClassList, classes_from_json, classes_to_json

FORMAT_VERSION = 1
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of files of weights that PyTorch writes."""
REGION_MIL = "region_mil"
_HEADER_KEY = "deal"
_LARGEST_SIDE = 16384
_FAILED = 0.03  # a rule that chooses a threshold nearer to 0 or 1 has found nothing to separate


@dataclass(frozen=True)
class Threshold:
    """The background threshold on class scores, in [0, 1], and the rule that chose it."""

    value: float
    rule: str

    @property
    def has_failed(self) -> bool:
        """Whether a rule chose an end of the range, so that (nearly) everything, or nothing, is background.

        >>> Threshold(0.0, "depth_relief").has_failed, Threshold(0.3, "otsu").has_failed
        (True, False)
        """
        is_chosen = not self.rule.startswith("fixed")
        return is_chosen and not _FAILED <= self.value <= 1.0 - _FAILED


@dataclass(frozen=True)
class ModelInfo:
    """The description of a model, without its weights.

    Args:
        architecture: Name for `create_model`.
        arguments: Arguments for `create_model`, without the source of the initial weights.
        classes: Foreground classes.
        input_size: Size (height, width) of the input images.
        threshold: Background threshold.
        training: Facts about the training (steps, losses, dataset), for users.
        format_version: Format version of the file.
    """

    architecture: str
    arguments: Mapping[str, Any]
    classes: ClassList
    input_size: tuple[int, int]
    threshold: Threshold
    training: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def is_segmenter(self) -> bool:
        """Whether scores are probabilities against the background, and not relative to the maximum of their map."""
        return is_segmenter(self.architecture)

    @property
    def names_regions(self) -> bool:
        """Whether the network names regions that are made from depth: it makes training masks and runs on no robot."""
        return names_regions(self.architecture)

    @property
    def uses_depth(self) -> bool:
        """Whether the network uses depth; it also works without depth."""
        return uses_depth(self.architecture, self.arguments)


def is_segmenter(name: str) -> bool:
    """Return whether the network called `name` predicts the background and is trained on masks."""
    return name == "segmenter"


def names_regions(name: str) -> bool:
    """Return whether the network called `name` names regions from depth, and so makes training masks only."""
    return name == REGION_MIL


def uses_depth(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the network called `name`, made with these arguments, uses depth."""
    return is_segmenter(name) and arguments.get("inputs") == "rgbd"


def refuse_region_model(what: object, info: ModelInfo) -> None:
    """Raise `ModelFileError` if the model makes training masks only; `what` names the model in the message."""
    if info.names_regions:
        raise ModelFileError(
            f"{what}: a region model makes training masks from tags and depth; distil it with `deal distill`, and use "
            "the segmenter"
        )


def read_info(path: Path) -> ModelInfo:
    """Read the description of a .safetensors model file, without its weights.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, or of a newer format.
    """
    with open_tensors(path, "numpy") as file:
        return info_from_metadata(path, file.metadata())


def open_tensors(path: Path, framework: str) -> Any:
    """Return a .safetensors model file, opened for a framework ("numpy" or "pt"), as `safetensors.safe_open` does.

    Raises:
        ModelFileError: the file is missing, truncated or another file.
    """
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected a model file (.safetensors), found {'a folder' if path.is_dir() else 'nothing'}"
        )
    if path.suffix == ".onnx":
        raise ModelFileError(
            f"{path}: an .onnx file makes masks (the node, deal segment, deal evaluate); expected the .safetensors "
            "file from which it was exported"
        )
    if path.suffix in PICKLED:
        raise ModelFileError(
            f"{path}: a file of PyTorch; `deal import-weights {path} --classes voc --out model.safetensors` makes a "
            "model file of a network of WeakTr or SEAM, and model.arguments.weights starts a training from others"
        )
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if sentence := over("header_bytes", length, "bytes of the header"):
            raise SafetensorError(sentence)
        return safe_open(str(path), framework=framework)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: damaged or truncated, or not a .safetensors file ({error}); copy it again from its source"
        ) from None


def info_to_metadata(info: ModelInfo) -> dict[str, str]:
    """Return the metadata of a model file that describes the model: JSON under one key."""
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": info.architecture,
        "arguments": without_initial_weights(info.arguments),
        "classes": classes_to_json(info.classes),
        "input_size": list(info.input_size),
        "threshold": dataclasses.asdict(info.threshold),
        "training": info.training,
    }
    return {_HEADER_KEY: json.dumps(header)}


def info_from_metadata(path: Path, metadata: Mapping[str, str] | None) -> ModelInfo:
    """Return the description of a model from the metadata of its file; `path` is for error messages.

    Raises:
        ModelFileError: the metadata is missing, damaged, or of a newer format.
    """
    if not metadata or _HEADER_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a {path.suffix} file without a DEAL header; expected a model written by `deal train`"
        )
    try:
        header = read_header(metadata[_HEADER_KEY])
        version = entry(header, "format_version", int)
        refuse_newer_format(path, version, FORMAT_VERSION)
        return ModelInfo(
            architecture=entry(header, "architecture", str),
            arguments=entry(header, "arguments", dict),
            classes=classes_from_json(entry(header, "classes", list)),
            input_size=_size(entry(header, "input_size", list)),
            threshold=_threshold(entry(header, "threshold", dict)),
            training=entry(header, "training", dict),
            format_version=version,
        )
    except (HeaderError, DatasetError) as error:
        raise ModelFileError(f"{path}: the header is damaged ({error})") from None


def refuse_newer_format(path: Path, found: int, newest: int) -> None:
    """Raise `ModelFileError` if a file has a newer format than this software reads."""
    if found > newest:
        raise ModelFileError(
            f"{path}: format {found} is newer than this software reads (up to {newest}); update deal_ros"
        )


def without_initial_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network without initial weights: all weights come from the model file."""
    return {name: "none" if name == "weights" else value for name, value in arguments.items()}


def _size(value: list[Any]) -> tuple[int, int]:
    if len(value) != 2 or not all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in value):
        raise HeaderError(f"input_size: expected height and width from 1 to {_LARGEST_SIDE}, found {short(value, 60)}")
    refuse_over("input_pixels", value[0] * value[1], f"pixels of input_size {value}", HeaderError)
    return value[0], value[1]


def _threshold(header: Mapping[str, Any]) -> Threshold:
    value, rule = entry(header, "value", float, "threshold"), entry(header, "rule", str, "threshold")
    if not 0 <= value <= 1:  # nan fails, too
        raise HeaderError(f"threshold.value: expected a number from 0 to 1, found {value:g}")
    return Threshold(value, rule)
