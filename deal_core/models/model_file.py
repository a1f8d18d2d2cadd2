"""Model files: .safetensors files with classes, architecture, input size and threshold in the header.

They contain only tensors and JSON, so loading a file never runs code from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, DatasetError, ModelFileError
from deal_core.files import replacing
from deal_core.models.checkpoints import PICKLED
from deal_core.models.factory import (
    create_model,
    is_segmenter,
    names_regions,
    settled_arguments,
    uses_depth,
    with_older_defaults,
)
from deal_core.structures import ClassList, classes_from_json, classes_to_json

FORMAT_VERSION = 1
_HEADER_KEY = "deal"
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


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in evaluation mode on the CPU, its description, and the SHA-256 of its file."""

    network: nn.Module
    info: ModelInfo
    sha256: str


def save_model(path: Path, network: nn.Module, info: ModelInfo) -> None:
    """Write a model file; it appears under its name only when it is complete.

    The file also holds the arguments that the network settled itself, such as the colours that its weights expect.

    Raises:
        ModelFileError: the file cannot be written; an existing file is kept.
    """
    tensors: dict[str, Tensor] = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    header = info_to_metadata(replace(info, arguments=settled_arguments(network, info.arguments)))
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: the model cannot be written there ({error})") from error


def info_to_metadata(info: ModelInfo) -> dict[str, str]:
    """Return the metadata of a model file that describes the model: JSON under one key."""
    header = {
        "format_version": FORMAT_VERSION,
        "architecture": info.architecture,
        "arguments": _without_initial_weights(info.arguments),
        "classes": classes_to_json(info.classes),
        "input_size": list(info.input_size),
        "threshold": dataclasses.asdict(info.threshold),
        "training": info.training,
    }
    return {_HEADER_KEY: json.dumps(header)}


def read_info(path: Path) -> ModelInfo:
    """Read the description of a model, without its weights.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, or of a newer format.
    """
    with _open(path) as file:
        return info_from_metadata(path, file.metadata())


def refuse_region_model(what: object, info: ModelInfo) -> None:
    """Raise `ModelFileError` if the model makes training masks only; `what` names the model in the message."""
    if info.names_regions:
        raise ModelFileError(
            f"{what}: a region model makes training masks from tags and depth; distil it with `deal distill`, and use "
            "the segmenter"
        )


def load_model(path: Path, *, expected_classes: ClassList | None = None) -> LoadedModel:
    """Load a .safetensors model file; `expected_classes` are the class names, in order, that it must have.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, of a newer format, or for other classes.
    """
    with _open(path) as file:
        info = info_from_metadata(path, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if expected_classes is not None and expected_classes.names != info.classes.names:
        raise ModelFileError(
            f"{path}: expected a model for the classes {list(expected_classes.names)}, "
            f"found one for {list(info.classes.names)}"
        )
    try:
        arguments = with_older_defaults(info.architecture, _without_initial_weights(info.arguments))
        network = create_model(info.architecture, len(info.classes), **arguments)
    except ConfigError as error:
        raise ModelFileError(f"{path}: the network in the header cannot be made: {error}") from None
    wanted = network.state_dict()
    wrong = [
        n for n in {**wanted, **tensors} if n not in wanted or n not in tensors or tensors[n].shape != wanted[n].shape
    ]
    if wrong:
        raise ModelFileError(
            f"{path}: weights do not fit '{info.architecture}': {len(wrong)} tensors are missing, unknown or of "
            f"another shape, the first is '{wrong[0]}'"
        )
    network.load_state_dict(tensors)
    return LoadedModel(network.eval(), info, hashlib.sha256(path.read_bytes()).hexdigest())


def info_from_metadata(path: Path, metadata: Mapping[str, str] | None) -> ModelInfo:
    """Return the description of a model from the metadata of its file; `path` is for error messages.

    Raises:
        ModelFileError: the metadata is missing, damaged, or of a newer format.
    """
    if not metadata or _HEADER_KEY not in metadata:
        raise ModelFileError(
            f"{path}: a {path.suffix} file without a DEAL header; expected a model written by `deal train`"
        )
    text = metadata[_HEADER_KEY]
    try:
        version = _Version.model_validate_json(text, strict=True).format_version
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"{path}: format {version} is newer than this software reads (up to {FORMAT_VERSION}); update deal_ros"
            )
        header = _Header.model_validate_json(text)
        classes = classes_from_json(header.classes)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ModelFileError(f"{path}: the header is damaged ({where}: {problem['msg']})") from None
    except DatasetError as error:
        raise ModelFileError(f"{path}: the header is damaged ({error})") from None
    return ModelInfo(
        architecture=header.architecture,
        arguments=header.arguments,
        classes=classes,
        input_size=header.input_size,
        threshold=Threshold(header.threshold.value, header.threshold.rule),
        training=header.training,
        format_version=version,
    )


class _Threshold(BaseModel):
    value: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    rule: str


class _Version(BaseModel):
    format_version: int


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)

    architecture: str
    arguments: dict[str, Any]
    classes: list[Any]
    input_size: tuple[Annotated[int, Field(ge=1, le=16384)], Annotated[int, Field(ge=1, le=16384)]]
    threshold: _Threshold
    training: dict[str, Any]


def _without_initial_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network without initial weights: all weights come from the model file."""
    return {name: "none" if name == "weights" else value for name, value in arguments.items()}


def _open(path: Path) -> Any:
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
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: damaged or truncated, or not a .safetensors file ({error}); copy it again from its source"
        ) from None


MODEL_FILE = "model.safetensors"
"""Name of a model file in a run folder."""
