"""`deal export`: a model as ONNX, for ONNX Runtime and TensorRT.

deal export runs/kitchen/model.safetensors --out kitchen.onnx
deal export runs/kitchen/model.safetensors --out kitchen_int8.onnx --precision int8 --calibrate kitchen
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.dataset_options import ClassIds, Layout, LayoutOption, RecordingsOption, open_frames

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.models.model_file import LoadedModel
    from deal_core.runtime.onnx_export import Exported
    from deal_core.runtime.quantisation import Quantised


class ExportPrecision(str, Enum):
    """Of what the model computes with."""

    FLOAT32 = "float32"
    INT8 = "int8"


def export(
    model: Annotated[Path, typer.Argument(help="Model file (.safetensors).")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    input_size: Annotated[
        int, typer.Option(help="Shorter side of the images that the network will see; 0 is the model's own.")
    ] = 0,
    precision: Annotated[
        ExportPrecision, typer.Option(help="int8 is for CPUs; it is learnt from the frames of --calibrate.")
    ] = ExportPrecision.FLOAT32,
    calibrate: Annotated[
        Path | None, typer.Option(help="With int8: dataset folder with frames like those the robot will see.")
    ] = None,
    layout: LayoutOption = Layout.DEAL,
    recordings: RecordingsOption = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="With int8: no more than so many frames, evenly spread; 100 if left out.")
    ] = None,
) -> None:
    """Write the network from colours to class scores as ONNX, compared with PyTorch, its classes and threshold inside.

    The node needs no exported file: with backend auto, it makes one of a .safetensors file where that is faster. An
    int8 model is made here alone, and compared with the float one.

    Example: deal export runs/kitchen/model.safetensors --out kitchen.onnx
    """
    from deal_core.errors import UsageError
    from deal_core.files import replacing
    from deal_core.models.model_file import load_model
    from deal_core.runtime.onnx_export import OPSET, export_onnx
    from deal_core.runtime.open_backend import scaled_size
    from training.support.console import console

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a file name that ends with .onnx, by which it is recognised")
    if (calibrate is None) == (precision is ExportPrecision.INT8):
        raise UsageError("--precision int8 and --calibrate DATASET go together: int8 is learnt from frames")
    if calibrate is None and (layout is not Layout.DEAL or recordings or frames):
        raise UsageError("--as, --recording and --frames say which frames --calibrate uses: name its dataset")
    loaded = load_model(model)
    dataset = _open(loaded, calibrate, layout, recordings, frames or 100) if calibrate else None
    exported = export_onnx(loaded, scaled_size(loaded.info.input_size, input_size))
    data, said = exported.data, f"differs from PyTorch by at most {exported.difference:.1e}"
    if dataset is not None:
        quantised = _quantise(exported, loaded, dataset)
        data = quantised.data
        said = (
            f"int8; on {quantised.frames} frames {quantised.same:.1%} of all pixels are as in float32, and "
            f"{quantised.agreement:.1%} of those that have a class in either"
        )
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error}") from None
    height, width = exported.info.input_size
    console().print(f"{out}: {len(data) / 1e6:.1f} MB, opset {OPSET}, {height}x{width}, {said}", markup=False)


def _open(model: LoadedModel, path: Path, layout: Layout, recordings: list[str] | None, frames: int) -> Dataset:
    from deal_core.masks.score_dataset import CamSettings, check_use

    dataset = open_frames(path, layout, "", None, ClassIds.CONTIGUOUS, recordings, frames)
    check_use(model.info, dataset, CamSettings())
    return dataset


def _quantise(exported: Exported, model: LoadedModel, dataset: Dataset) -> Quantised:
    from deal_core.runtime.quantisation import quantise
    from training.support.console import progress

    with progress() as bar:
        task = bar.add_task("calibrating", total=2 * len(dataset))
        return quantise(exported, model.sha256, dataset, advance=lambda done: bar.update(task, completed=done))
