"""`deal export`: a model as ONNX, for ONNX Runtime and TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="Model file (.safetensors).")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    input_size: Annotated[
        int, typer.Option(help="Shorter side of the images that the network will see; 0 is the model's own.")
    ] = 0,
) -> None:
    """Write the network from colours to class scores as ONNX, compared with PyTorch, its classes and threshold inside.

    The node needs no exported file: with backend auto, it makes one of a .safetensors file where that is faster.

    Example: deal export runs/kitchen/model.safetensors --out kitchen.onnx
    """
    from deal_core.backends.opening import scaled_size
    from deal_core.errors import UsageError
    from deal_core.export import OPSET, export_onnx
    from deal_core.files import replacing
    from deal_core.modelfile import load_model
    from training.console import console

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: expected a file name that ends with .onnx, by which it is recognised")
    loaded = load_model(model)
    exported = export_onnx(loaded, scaled_size(loaded.info.input_size, input_size))
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(exported.data)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error}") from None
    height, width = exported.info.input_size
    console().print(
        f"{out}: {len(exported.data) / 1e6:.1f} MB, opset {OPSET}, {height}x{width}, differs from PyTorch by at most "
        f"{exported.difference:.1e}",
        markup=False,
    )
