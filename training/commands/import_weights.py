"""`deal import-weights`: read weights as people publish them.

deal import-weights WeakTr_VOC.pth --classes voc --out weaktr.safetensors
deal import-weights deit_small_patch16_224-cd65a155.pth --backbone deit_small_patch16_224 --out deit_small.safetensors
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from deal_core.models.checkpoints import Checkpoint
    from deal_core.structures import ClassList

_DEFAULT_BACKBONES = {"deit": "deit_small_patch16_224", "weaktr": "deit_small_patch16_224"}
_RESNET38 = "resnet38"


def import_weights(
    file: Annotated[Path, typer.Argument(help="File of weights: .pth, .pt, .bin, .ckpt or .safetensors.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    form: Annotated[
        Literal["auto", "deit", "weaktr", "seam", "resnet38d", "timm"],
        typer.Option("--as", help="Whose names the tensors have; auto finds out."),
    ] = "auto",
    classes: Annotated[
        str,
        typer.Option(
            help="Write a whole model of WeakTr or SEAM with these classes: voc, names separated by commas, "
            "or the path of a dataset.yaml. Default: write a backbone's weights."
        ),
    ] = "",
    backbone: Annotated[
        str,
        typer.Option(help="Without --classes: timm's name of the network, or resnet38. Default: as --as says."),
    ] = "",
) -> None:
    """Read published weights of DeiT, WeakTr, SEAM, ResNet38-d, timm or torchvision, and rename their tensors.

    Tensors that are missing or left over are printed; more than a missing classifier is an error. With --classes, the
    result is a model file for `deal evaluate` and `deal cams`; without, a file for `model.arguments.weights`. Pickled
    files never run code.

    Example: deal import-weights WeakTr_VOC.pth --classes voc --out weaktr.safetensors
    """
    from deal_core.errors import UsageError
    from deal_core.files import refuse_output_on_input
    from deal_core.models.checkpoints import read_checkpoint

    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: expected a file name that ends with .safetensors")
    if classes and backbone:
        raise UsageError("--backbone is for weights of a backbone, without --classes")
    refuse_output_on_input([out], [file], UsageError)
    checkpoint = read_checkpoint(file)
    found = {"deit": "timm"}.get(form, form)
    if found not in ("auto", checkpoint.form):
        raise UsageError(f"--as {form}: {file} has names of {checkpoint.form}")
    if classes:
        _write_model(checkpoint, _parse_classes(classes), out)
    else:
        _write_backbone(checkpoint, backbone or _default_backbone(checkpoint, form), out)


def _default_backbone(checkpoint: Checkpoint, form: str) -> str:
    from deal_core.errors import UsageError
    from deal_core.models.backbone import nearest_network

    if checkpoint.form in ("seam", "resnet38d"):
        return _RESNET38
    name = _DEFAULT_BACKBONES.get(form if form != "auto" else checkpoint.form)
    if name is None:
        hint = nearest_network(checkpoint.backbone()).removeprefix("; ")
        raise UsageError(f"--backbone: expected timm's name of the network of {checkpoint.path}. {hint}".rstrip(". "))
    return name


def _parse_classes(text: str) -> ClassList:
    from deal_core.dataset.dataset import DATASET_FILE, read_classes
    from deal_core.dataset.voc import VOC_CLASSES
    from deal_core.errors import UsageError
    from training.support.options import parse_classes

    if text == "voc":
        return VOC_CLASSES
    if Path(text).name == DATASET_FILE:
        return read_classes(Path(text).parent)
    found = parse_classes(text)
    if found is None:
        raise UsageError("--classes: expected voc, names separated by commas or a dataset.yaml, found nothing")
    return found


def _write_model(checkpoint: Checkpoint, classes: ClassList, out: Path) -> None:
    from deal_core.models.model_file import save_model
    from deal_core.models.published import model_of_checkpoint
    from training.support.console import console

    network, info = model_of_checkpoint(checkpoint, classes)
    save_model(out, network, info)
    console().print(
        f"{out}: {info.architecture} with {len(classes)} classes; all {len(checkpoint.tensors)} tensors of "
        f"{checkpoint.path} are used. Threshold {info.threshold.value:g}, as published for VOC",
        markup=False,
    )


def _write_backbone(checkpoint: Checkpoint, name: str, out: Path) -> None:
    from safetensors.torch import save

    from deal_core.errors import ModelFileError, UsageError
    from deal_core.files import os_errors_as, replacing
    from deal_core.models.backbone import fit_whole_network, nearest_network
    from training.support.console import console

    tensors = checkpoint.backbone()
    fit = fit_whole_network(name, tensors)
    for said, names in (("missing", fit.lacking), ("left over", fit.unused)):
        for tensor in names:
            console().print(f"{said}: {tensor}", markup=False)
    if fit.lacking:
        raise ModelFileError(
            f"{checkpoint.path}: weights of another network than '{name}': {len(fit.lacking)} of its tensors are "
            f"missing or have another shape, the first is '{fit.lacking[0]}'{nearest_network(tensors)}"
        )
    with os_errors_as(UsageError, f"{out} cannot be written"), replacing(out) as temporary:
        temporary.write_bytes(save({n: t.contiguous() for n, t in fit.found.items()}))
    console().print(
        f"{out}: weights of '{name}' ({checkpoint.form}): {len(fit.found)} tensors used, {len(fit.unused)} left over. "
        f"Train with model.arguments.weights={out}",
        markup=False,
    )
