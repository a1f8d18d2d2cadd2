"""`deal export`: write a model as ONNX, for ONNX Runtime and TensorRT.

deal export runs/kitchen/model.safetensors --out kitchen.onnx
deal export runs/kitchen/model.safetensors --out kitchen_int8.onnx --precision int8 --calibrate kitchen
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.support.options import LayoutOption, ModelArgument, RecordingsOption, SourceOptions

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.models.model_file import LoadedModel
    from deal_core.runtime.onnx_export import Exported
    from deal_core.runtime.quantisation import Quantised


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    input_size: Annotated[
        int, typer.Option(help="Shorter side of the network's input, pixels; 0 keeps the model's input size.")
    ] = 0,
    precision: Annotated[
        Literal["float32", "int8"], typer.Option(help="int8 is for CPUs and needs the frames of --calibrate.")
    ] = "float32",
    calibrate: Annotated[
        Path | None, typer.Option(help="With int8: dataset folder with frames like those on the robot.")
    ] = None,
    layout: LayoutOption = "deal",
    recordings: RecordingsOption = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="With int8: use at most this many frames, evenly spaced. Default: 100.")
    ] = None,
) -> None:
    """Write the network from image to class scores as an ONNX file with its classes and threshold.

    The exported network is compared with PyTorch. The node needs no exported file: with backend auto, it exports a
    .safetensors file by itself where that is faster. Only this command makes int8 models, and compares each with the
    float32 model.

    Example: deal export runs/kitchen/model.safetensors --out kitchen.onnx
    """
    from deal_core.errors import UsageError
    from deal_core.files import os_errors_as, refuse_output_on_input, replacing
    from deal_core.models.model_file import load_model
    from deal_core.runtime.onnx_export import export_onnx
    from deal_core.runtime.onnx_file import OPSET
    from deal_core.runtime.open_backend import scaled_size
    from training.support.console import console

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a file name that ends with .onnx")
    if (calibrate is None) == (precision == "int8"):
        raise UsageError("--precision int8 and --calibrate DATASET go together: int8 is calibrated on frames")
    if calibrate is None and (layout != "deal" or recordings or frames):
        raise UsageError("--as, --recording and --frames choose frames of the dataset of --calibrate: add --calibrate")
    loaded = load_model(model)
    source = SourceOptions(layout, recordings=recordings, frames=frames or 100)
    dataset = _open(loaded, source, calibrate) if calibrate else None
    refuse_output_on_input([out], [model, *(dataset.files() if dataset else ())], UsageError)
    exported = export_onnx(loaded, scaled_size(loaded.info.input_size, input_size))
    data, said = exported.data, f"differs from PyTorch by at most {exported.difference:.1e}"
    if dataset is not None:
        quantised = _quantise(exported, loaded, dataset)
        data = quantised.data
        said = (
            f"int8; on {quantised.frames} frames, {quantised.same:.1%} of all pixels are equal to float32, and "
            f"{quantised.agreement:.1%} of the pixels that have a class in either"
        )
    with os_errors_as(UsageError, f"{out} cannot be written"), replacing(out) as temporary:
        temporary.write_bytes(data)
    height, width = exported.info.input_size
    console().print(f"{out}: {len(data) / 1e6:.1f} MB, opset {OPSET}, {height}x{width}, {said}", markup=False)


def _open(model: LoadedModel, source: SourceOptions, path: Path) -> Dataset:
    from deal_core.masks.score_dataset import CamSettings, check_use

    dataset = source.open(path)
    check_use(model.info, dataset, CamSettings())
    return dataset


def _quantise(exported: Exported, model: LoadedModel, dataset: Dataset) -> Quantised:
    from deal_core.runtime.quantisation import quantise
    from training.support.console import counting

    with counting("calibrating", 2 * len(dataset)) as advance:
        return quantise(exported, model.sha256, dataset, advance=advance)
