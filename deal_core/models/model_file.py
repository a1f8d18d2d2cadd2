"""Model files: .safetensors files with weights, and with the description of `model_info` in the header.

They contain only tensors and JSON, so loading a file never runs code from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError
from deal_core.files import os_errors_as, replacing
from deal_core.models.factory import create_model, settled_arguments, with_older_defaults
from deal_core.models.model_info import FORMAT_VERSION as FORMAT_VERSION
from deal_core.models.model_info import ModelInfo as ModelInfo
from deal_core.models.model_info import Threshold as Threshold
from deal_core.models.model_info import info_from_metadata, info_to_metadata, open_tensors, without_initial_weights
from deal_core.models.model_info import read_info as read_info
from deal_core.structures import ClassList


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
    with os_errors_as(ModelFileError, f"{path}: the model cannot be written there"), replacing(path) as temporary:
        temporary.write_bytes(save(tensors, header))  # `save_file` would let only this user read the file


def load_model(path: Path, *, expected_classes: ClassList | None = None) -> LoadedModel:
    """Load a .safetensors model file; `expected_classes` are the class names, in order, that it must have.

    Raises:
        ModelFileError: the file is missing, truncated, not a DEAL model, of a newer format, or for other classes.
    """
    with open_tensors(path, "pt") as file:
        info = info_from_metadata(path, file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if expected_classes is not None and expected_classes.names != info.classes.names:
        raise ModelFileError(
            f"{path}: expected a model for the classes {list(expected_classes.names)}, "
            f"found one for {list(info.classes.names)}"
        )
    try:
        arguments = with_older_defaults(info.architecture, without_initial_weights(info.arguments))
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


MODEL_FILE = "model.safetensors"
"""Name of a model file in a run folder."""
