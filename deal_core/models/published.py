"""Models of WeakTr and SEAM as their authors publish them, as model files of this project."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deal_core.errors import ModelFileError
from deal_core.models.checkpoints import Checkpoint
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold
from deal_core.models.weaktr import WeakTr
from deal_core.structures import ClassList

_VIT_NAMES = {192: "deit_tiny_patch16_224", 384: "deit_small_patch16_224", 768: "deit_base_patch16_224"}
_PUBLISHED_THRESHOLDS = {"weaktr": 0.43, "seam": 0.26}
"""Background thresholds of the published code for VOC."""
_SEAM_INPUT = (448, 448)


def model_of_checkpoint(checkpoint: Checkpoint, classes: ClassList) -> tuple[nn.Module, ModelInfo]:
    """Return the network of a checkpoint of WeakTr or SEAM, with its weights, and its description for `save_model`.

    The names are those of github.com/hustvl/WeakTr and github.com/YudeWang/SEAM. The threshold is that of their code
    for VOC; choose another with the threshold rules.

    Args:
        checkpoint: Tensors in the format "weaktr" or "seam".
        classes: Foreground classes, in the order of the classifier.

    Raises:
        ModelFileError: the file holds no whole network of these, has another number of classes, or options that this
            project's network does not have.
    """
    if checkpoint.form not in _PUBLISHED_THRESHOLDS:
        raise ModelFileError(
            f"{checkpoint.path}: expected a whole network of WeakTr or SEAM, found weights with names of "
            f"{checkpoint.form}: they can start a training as model.arguments.weights={checkpoint.path}"
        )
    describe = _weaktr if checkpoint.form == "weaktr" else _seam
    arguments, input_size, tensors, outputs = describe(checkpoint)
    if outputs != len(classes):
        raise ModelFileError(f"{checkpoint.path}: its classifier has {outputs} classes, found {len(classes)} names")
    network = create_model(checkpoint.form, len(classes), weights="none", **arguments)
    wanted = {n: t for n, t in network.state_dict().items() if not n.startswith("normalise_colours")}
    wrong = [n for n, t in wanted.items() if n not in tensors or tensors[n].shape != t.shape]
    wrong = [n for n in wrong if not n.endswith("num_batches_tracked")]
    unknown = [n for n in tensors if n not in wanted]
    if wrong or unknown:
        raise ModelFileError(
            f"{checkpoint.path}: no {checkpoint.form} as published: {len(wrong)} tensors are missing or have another "
            f"shape, {len(unknown)} are unknown; the first is '{(wrong + unknown)[0]}'"
        )
    network.load_state_dict({**network.state_dict(), **tensors})
    threshold = _PUBLISHED_THRESHOLDS[checkpoint.form]
    info = ModelInfo(
        architecture=checkpoint.form,
        arguments={**arguments, "weights": "none"},
        classes=classes,
        input_size=input_size,
        threshold=Threshold(threshold, f"fixed:{threshold}"),
        training={"imported_from": Path(checkpoint.path).name},
    )
    return network.eval(), info


_Described = tuple[dict[str, Any], tuple[int, int], dict[str, Tensor], int]
"""Arguments of the network, input size, tensors by our names, and number of classes."""


def _weaktr(checkpoint: Checkpoint) -> _Described:
    source = dict(checkpoint.tensors)
    _need(checkpoint, "cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight", "blocks.0.attn.qkv.weight")
    _need(checkpoint, "adaptive_attention_fusion.attn_head_ffn.0.weight")
    classes, dim = source["cls_token"].shape[1:]
    patch, count = source["patch_embed.proj.weight"].shape[-1], source["pos_embed"].shape[1] - classes
    side = math.isqrt(count)
    depth = len({name.split(".")[1] for name in source if name.startswith("blocks.")})
    maps = source["adaptive_attention_fusion.attn_head_ffn.0.weight"].shape[1]
    backbone = {"embed_dim": dim, "depth": depth, "num_heads": maps // depth, "patch_size": patch}
    # Options of its training script, where the file has them; published: max.
    pool = {"avg": "mean"}.get(checkpoint.options.get("pool_type", "max"), "max")
    arguments = {
        "backbone": _VIT_NAMES.get(dim, _VIT_NAMES[384]),
        "backbone_arguments": {**backbone, "img_size": side * patch},
        "pool": pool,
    }
    positions = source.pop("pos_embed")
    tensors = {
        "class_tokens": source.pop("cls_token")[0],
        "class_positions": positions[0, :classes],
        "backbone.positions": positions[:, classes:],
    }
    for name, tensor in source.items():
        tensors[_weaktr_name(name)] = tensor
    _check_fusion(checkpoint, arguments, tensors)
    return arguments, (side * patch, side * patch), tensors, classes


def _weaktr_name(name: str) -> str:
    for theirs, ours in (
        ("head.", "classifier."),
        ("adaptive_attention_fusion.attn_feat_ffn.", "fusion.squeeze."),
        ("adaptive_attention_fusion.attn_head_ffn.", "fusion.excite."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"backbone.{name}"


def _check_fusion(checkpoint: Checkpoint, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    own = WeakTr(1, **arguments).fusion.state_dict()
    for name, tensor in own.items():
        found = tensors.get(f"fusion.{name}")
        if found is not None and found.shape != tensor.shape:
            raise ModelFileError(
                f"{checkpoint.path}: its attention fusion has a layer of {tuple(found.shape)} where the published one, "
                f"with --reduction 8 and --feat-reduction 8, has {tuple(tensor.shape)}"
            )


def _seam(checkpoint: Checkpoint) -> _Described:
    _need(checkpoint, "fc8.weight", "f8_3.weight", "f8_4.weight", "f9.weight")
    own = {
        "fc8.weight": "classifier.weight",
        "f8_3.weight": "embedding.early.weight",
        "f8_4.weight": "embedding.middle.weight",
        "f9.weight": "embedding.fuse.weight",
    }
    tensors = {own.get(name, f"backbone.{name}"): tensor for name, tensor in checkpoint.backbone().items()}
    return {"preset": "reference"}, _SEAM_INPUT, tensors, len(checkpoint.tensors["fc8.weight"]) - 1


def _need(checkpoint: Checkpoint, *names: str) -> None:
    lacking = [name for name in names if name not in checkpoint.tensors]
    if lacking:
        raise ModelFileError(f"{checkpoint.path}: no {checkpoint.form} as published: '{lacking[0]}' is missing")
