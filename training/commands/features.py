"""`deal features`: feature maps of a frozen backbone, kept on disk.

deal features kitchen --backbone resnet18 --out features
deal features new_kitchen --backbone runs/kitchen/model.safetensors --out features
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import DatasetArgument, DeviceOption, SourceOptions, parse_pair

if TYPE_CHECKING:
    from torch import nn


def features(
    dataset: DatasetArgument,
    *,
    backbone: Annotated[
        str, typer.Option(help="Name of a timm model, also a vision transformer, or a model file (.safetensors).")
    ],
    out: Annotated[Path, typer.Option(help="Folder of feature maps; one serves several datasets and backbones.")],
    weights: Annotated[
        str, typer.Option(help="With a name: hub (pretrained weights of timm), or a file of weights.")
    ] = "hub",
    levels: Annotated[str, typer.Option(help="With a name: feature levels, as in config/train.yaml.")] = "-3,-2",
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height of the input. Default: as in the model file, or 320x240.", show_default=False
        ),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Keep the maps of mirror images, too.")] = True,
    source: SourceOptions,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the feature maps of all frames, which `deal train` with data.features reads instead of images.

    Maps that the folder holds are not made again, so an interrupted run continues where it stopped.

    Example: deal features kitchen --backbone resnet18 --out features
    """
    from deal_core.devices import resolve_device
    from deal_core.features.kept_maps import keep_maps
    from training.support.console import console, counting, print_json

    given = parse_pair(size, "x", "--size", "320x240") if size else None
    network, own_size = _network(backbone, weights, levels)
    width, height = given or own_size[::-1]
    frames = source.open(dataset)
    with counting("features", len(frames), quiet=as_json) as advance:
        kept = keep_maps(network.to(resolve_device(device)), frames, (height, width), out, flip=flip, advance=advance)
    files = [*kept.files, *kept.flipped]
    size_mb = sum(file.stat().st_size for file in files) / 1e6
    shapes = [list(level.shape) for level in kept.read(0)] if files else []
    if as_json:
        print_json({"folder": out, "frames": len(frames), "files": len(files), "megabytes": size_mb, "maps": shapes})
    else:
        maps = ", ".join("x".join(map(str, shape)) for shape in shapes)
        told = f"{len(files)} files of {len(frames)} frames, {size_mb:.0f} MB, maps {maps}"
        console().print(f"{out}: {told}", markup=False)


def _network(backbone: str, weights: str, levels: str) -> tuple[nn.Module, tuple[int, int]]:
    """Return a network with the backbone, and the (height, width) of its input."""
    from deal_core.dataset.settings import DataSettings
    from deal_core.errors import UsageError
    from deal_core.models.cam_net import CamNet
    from deal_core.models.model_file import load_model

    if Path(backbone).suffix == ".safetensors" or Path(backbone).is_file():
        model = load_model(Path(backbone))
        return model.network, model.info.input_size
    if weights in ("none", "auto"):
        raise UsageError(f"--weights: expected hub or a file, found {weights}: random features tell nothing apart")
    try:
        chosen = [int(level) for level in levels.split(",")]
    except ValueError:
        raise UsageError(f"--levels: expected whole numbers like -3,-2, found '{levels}'") from None
    default: tuple[int, int] = DataSettings.model_fields["image_size"].default
    return CamNet(1, backbone, chosen, weights=weights).eval(), default
