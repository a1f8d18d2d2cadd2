"""Files of weights as people have them: of timm, torchvision, DeiT, WeakTr, SEAM and ResNet38-d, under their own names.

`read_checkpoint` opens a file, and `Checkpoint.backbone` renames its tensors to those of the backbones in this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor

from deal_core.errors import ModelFileError
from deal_core.models.model_info import PICKLED, open_tensors
from deal_core.models.pickled_file import read_pickled

CheckpointFormat = Literal["timm", "weaktr", "seam", "resnet38d"]
"""Whose names the tensors have; DeiT and most of torchvision name them as timm does."""

# Names under which training scripts keep the tensors of a network in a file, and prefixes that their wrappers add.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "model.")
_FUSION = "adaptive_attention_fusion."
_RESNET38_PARTS = {
    "bn_branch2a": "bn1",
    "conv_branch2a": "conv1",
    "bn_branch2b1": "bn2",
    "conv_branch2b1": "conv2",
    "bn_branch2b2": "bn3",
    "conv_branch2b2": "conv3",
    "conv_branch1": "shortcut",
}
_SEAM_HEADS = ("fc8.", "f8_3.", "f8_4.", "f9.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file.

    Args:
        path: The file, for messages.
        form: Whose names the tensors have.
        tensors: Tensors by these names, without the wrappers of training scripts.
        options: Options of the training script that are in the file, by name; empty for most files.
    """

    path: Path
    form: CheckpointFormat
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    def backbone(self) -> dict[str, Tensor]:
        """Return the tensors by their names in timm's network, or in `deal_core.models.resnet38.ResNet38`.

        Of a WeakTr, the class token and its position are the means over its classes. Tensors of other parts keep their
        names.
        """
        if self.form == "weaktr":
            return _vit_of_weaktr(self.tensors)
        if self.form in ("seam", "resnet38d"):
            return {resnet38_name(name): tensor for name, tensor in self.tensors.items()}
        return dict(self.tensors)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a .safetensors, .pth, .pt, .bin or .ckpt file and find out whose names they have.

    Pickled files are read as tensors, numbers, text and options of a command line; they never run code.

    Raises:
        ModelFileError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a .safetensors, .pth or .pt file of weights, found no file")
    if path.suffix in PICKLED:
        return _read_pickled(path)
    with open_tensors(path, "pt") as file:
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except Exception as error:  # types of numbers that this PyTorch does not have
            raise ModelFileError(f"{path}: its tensors cannot be read ({str(error)[:200]})") from None
    return _checkpoint(path, tensors)


def resnet38_name(name: str) -> str:
    """Return a tensor's name in `ResNet38`, from its name in SEAM's code.

    >>> resnet38_name("b4_3.conv_branch2a.weight"), resnet38_name("b6.bn_branch2b1.bias"), resnet38_name("bn7.weight")
    ('b4.3.conv1.weight', 'b6.bn2.bias', 'bn7.weight')
    """
    block, _, rest = name.partition(".")
    part, _, tensor = rest.partition(".")
    if part not in _RESNET38_PARTS:
        return name
    stage, _, index = block.partition("_")
    place = stage if stage in ("b6", "b7") else f"{stage}.{index or 0}"
    return f"{place}.{_RESNET38_PARTS[part]}.{tensor}"


def plain_name(name: str) -> str:
    """Return a tensor's name without what wrappers add to it, and as timm's feature extractors change it."""
    return _without_prefix(name).replace(".", "_")


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _format_of(tensors: Mapping[str, Tensor]) -> CheckpointFormat:
    names = {_without_prefix(name) for name in tensors}
    if any(name.startswith(_FUSION) for name in names):
        return "weaktr"
    if "b2.conv_branch2a.weight" in names:
        return "seam" if "f9.weight" in names else "resnet38d"
    return "timm"


def _read_pickled(path: Path) -> Checkpoint:
    try:
        # Training scripts keep the options of their command line beside the tensors.
        content = read_pickled(path, [(_Options, "argparse.Namespace")])
    except UnpicklingError:
        raise ModelFileError(
            f"{path}: holds more than tensors, and reading that could run code; save its state_dict as .safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: not a readable file of PyTorch ({error})") from None
    options = content.get("args") if isinstance(content, dict) else None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {n: t for n, t in content.items() if isinstance(t, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ModelFileError(f"{path}: expected the tensors of a network by name (a state_dict), found none")
    return _checkpoint(path, tensors, vars(options) if isinstance(options, _Options) else {})


def _checkpoint(path: Path, tensors: dict[str, Tensor], options: Mapping[str, Any] | None = None) -> Checkpoint:
    form = _format_of(tensors)
    if form != "timm":
        tensors = {_without_prefix(name): tensor for name, tensor in tensors.items()}
    return Checkpoint(path, form, tensors, options or {})


class _Options:
    """Plain data in place of a Namespace of argparse."""


def _vit_of_weaktr(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    classes = tensors["cls_token"].shape[1]
    token, positions = tensors["cls_token"].mean(1, keepdim=True), tensors["pos_embed"]
    position = positions[:, :classes].mean(1, keepdim=True)
    return {**tensors, "cls_token": token, "pos_embed": torch.cat([position, positions[:, classes:]], dim=1)}
