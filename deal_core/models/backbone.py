"""Backbones of timm: created by name, with weights of a file, and errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError, nearest_hint

# Arguments of timm.create_model that the network sets, or that could load a pickle, which no model file may do.
_OWN_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "out_indices",
)


def create_backbone(
    name: str, levels: Sequence[int], weights: str, arguments: Mapping[str, Any] | None = None, **own: Any
) -> Any:
    """Return a timm model with its weights that returns the feature maps of `levels`, as in `CamNet`.

    The user chooses `arguments` of `timm.create_model`, which must not contain the network's `own` arguments.

    Raises:
        ConfigError: the backbone is unknown, cannot be made with these arguments, or its download fails.
        ModelFileError: the weights file is missing, damaged or from another network.
    """
    check_weights(weights)
    if isinstance(levels, str) or not levels or any(type(level) is not int for level in levels):
        raise ConfigError(f"expected levels as whole numbers, like [-3, -2], found {levels!r}")
    refuse_own_arguments("backbone_arguments", arguments or {}, own)
    backbone = _create_timm_model(name, levels, weights == "hub", {**(arguments or {}), **own})
    if weights not in ("none", "hub"):
        load_backbone_weights(backbone, Path(weights))
    return backbone


def check_weights(weights: object) -> None:
    """Raise `ConfigError` if the weights are no text."""
    if not isinstance(weights, str):
        raise ConfigError(f"expected weights as none, hub or the path of a .safetensors file, found {weights!r}")


def refuse_own_arguments(what: str, arguments: Iterable[str], own: Iterable[str] = ()) -> None:
    """Raise `ConfigError` if `arguments` has one that the network sets (`own`) or that could load a pickle.

    `what` is the name under which the user gave the arguments.
    """
    for argument in arguments:
        if argument in (*_OWN_ARGUMENTS, *own):
            raise ConfigError(f"{what} cannot set '{argument}': the network sets it, or it would have no effect")


@contextmanager
def explain_timm_errors(name: str, what: str) -> Iterator[None]:
    """Raise `ConfigError` if timm cannot download the weights of `name`, or cannot make `what`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the weights of '{name}' cannot be downloaded ({str(error).splitlines()[0]}); download them on another "
            "machine and set weights to the path of the .safetensors file"
        ) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, AttributeError) as error:
        raise ConfigError(f"{what} cannot be made: {error}") from error


def check_timm_name(what: str, name: object, expected: str = "a timm model", patterns: Sequence[str] = ("*",)) -> None:
    """Raise `ConfigError` if timm has no model of this name; `patterns` limits the suggestions."""
    if not isinstance(name, str) or not timm.is_model(name):
        hint = nearest_hint(str(name), [known for pattern in patterns for known in timm.list_models(pattern)])
        raise ConfigError(f"unknown {what} '{name}': expected {expected}.{hint}")


def load_backbone_weights(
    backbone: nn.Module, path: Path, adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> None:
    """Load the .safetensors file of a whole network into a backbone, and ignore the other tensors.

    Args:
        backbone: Module to load into.
        path: Path of the file.
        adapt: Function to apply to the tensors of the file first, such as resizing position embeddings.

    Raises:
        ModelFileError: the file is missing or damaged, or a tensor of the backbone is missing or has another shape.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a .safetensors file with backbone weights, found no file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({error})") from None
    if adapt is not None:
        try:
            tensors = adapt(tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelFileError(f"{path}: weights of another network: {error}") from error
    # In feature extractors, timm replaces '.' by '_' in some names, or puts 'model.' before them.
    known = {_plain_name(n): t for n, t in tensors.items()}
    wanted = backbone.state_dict()
    found = {n: known.get(_plain_name(n)) for n in wanted}
    fitting = {n: t for n, t in found.items() if t is not None and t.shape == wanted[n].shape}
    lacking = [n for n in wanted if n not in fitting and not n.endswith("num_batches_tracked")]
    if lacking:
        raise ModelFileError(
            f"{path}: weights of another network: {len(lacking)} of {len(wanted)} tensors of the backbone are "
            f"missing or have another shape, the first is '{lacking[0]}'"
        )
    backbone.load_state_dict({**wanted, **fitting})


def _plain_name(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _create_timm_model(name: str, levels: Sequence[int], pretrained: bool, arguments: dict[str, Any]) -> Any:
    check_timm_name("backbone", name)
    with explain_timm_errors(name, f"backbone '{name}' with levels {list(levels)} and arguments {arguments}"):
        try:
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, out_indices=tuple(levels), **arguments
            )
        except IndexError:
            count = len(timm.create_model(name, features_only=True, **arguments).feature_info.info)
            raise ConfigError(
                f"backbone '{name}' has feature levels 0..{count - 1} (or -{count}..-1), found {list(levels)}"
            ) from None
