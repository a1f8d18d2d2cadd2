"""Feature maps of frames on disk: a memory-mapped file of float16 for each frame, and one for its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deal_core.dataset.transforms import image_to_tensor, resize_sample
from deal_core.errors import ConfigError
from deal_core.features.digest import folder_name, pixels_name, weights_digest
from deal_core.features.grid import Grid, GridView
from deal_core.files import os_errors_as, replacing
from deal_core.models.output import MappedNetwork
from deal_core.structures import Sample

_VERSION = 1
_DAMAGE = (OSError, SafetensorError)


class LoadedFrames(Protocol):
    """Frames that can be read, such as those of a `Dataset`."""

    def __len__(self) -> int: ...

    def load(self, frame: int, /) -> Sample:
        """Read one frame."""


@dataclass(frozen=True)
class KeptMaps:
    """The files of the feature maps of frames, in the order of the frames.

    Args:
        files: File of each frame.
        flipped: File of the mirror image of each frame; empty if none are kept.
    """

    files: tuple[Path, ...]
    flipped: tuple[Path, ...]

    def read(self, frame: int, flip: bool = False) -> tuple[Tensor, ...]:
        """Return the maps (C, h, w) of a frame, float16, from fine to coarse.

        Raises:
            ConfigError: the file was removed or damaged meanwhile.
        """
        return self._read(frame, flip, None, None)

    def read_view(self, frame: int, view: GridView, grid: Grid) -> tuple[Tensor, ...]:
        """Return a view of the maps of a frame; of a crop, only its part of the file is read."""
        return self._read(frame, view.flip, view, grid)

    def _read(self, frame: int, flip: bool, view: GridView | None, grid: Grid | None) -> tuple[Tensor, ...]:
        file = (self.flipped if flip else self.files)[frame]
        try:
            with safe_open(file, framework="pt") as content:
                count = len(content.keys())
                if view is None or grid is None or grid.is_whole:
                    return tuple(content.get_tensor(str(level)) for level in range(count))
                return tuple(_part(content.get_slice(str(level)), view, grid) for level in range(count))
        except _DAMAGE as error:
            raise ConfigError(
                f"{file} cannot be read ({error}): start the command again, which makes it again"
            ) from None


def keep_maps(
    network: nn.Module,
    frames: LoadedFrames,
    size: tuple[int, int],
    folder: Path,
    *,
    flip: bool = True,
    advance: Callable[[int], None] = lambda frames: None,
) -> KeptMaps:
    """Return the feature maps of all frames and, with `flip`, of their mirror images; those in `folder` are kept.

    They are those of the network in evaluation mode, for one image at a time. The name of a subfolder follows from the
    layers and weights of the backbone, its levels, the colours that it expects and the image size; that of a file from
    the pixels. So one folder serves several datasets, and models that share a backbone.

    Args:
        network: A `MappedNetwork`, on any device.
        frames: Frames.
        size: (height, width) of the image for the network.
        folder: Folder for the maps.
        flip: Whether to keep the maps of mirror images, too.
        advance: Function to call with the number of completed frames.

    Raises:
        DatasetError: a frame cannot be read.
        ConfigError: the network has no such maps, a value is too large for float16, or the folder cannot be written.
    """
    mapped = require_mapped(network)
    folder = folder / _name(network, mapped, size)
    was_training = network.training
    network.eval()
    files: dict[bool, list[Path]] = {False: [], True: []}
    for frame in range(len(frames)):
        sample = resize_sample(frames.load(frame), size)
        name = pixels_name(sample.key, sample.image)
        for is_flipped in (False, True) if flip else (False,):
            file = folder / f"{name}{'.flip' if is_flipped else ''}.safetensors"
            if not _is_whole(file):
                _write(file, _maps(network, mapped, image_to_tensor(sample.image), is_flipped))
            files[is_flipped].append(file)
        advance(frame + 1)
    network.train(was_training)
    return KeptMaps(tuple(files[False]), tuple(files[True]))


def require_mapped(network: nn.Module) -> MappedNetwork:
    """Return the network; raise `ConfigError` if its layers after the backbone need more than feature maps."""
    if not isinstance(network, MappedNetwork) or getattr(network, "uses_depth", False):
        kind = f"a {type(network).__name__}" + (" with depth" if getattr(network, "uses_depth", False) else "")
        raise ConfigError(
            f"{kind} cannot train on feature maps alone: expected a cam_net, or a segmenter with inputs rgb"
        )
    return cast(MappedNetwork, network)


def _name(network: nn.Module, mapped: MappedNetwork, size: tuple[int, int]) -> str:
    backbone: Any = network.backbone
    colours: Any = network.normalise_colours
    means = [values.flatten().tolist() for values in (colours.mean, colours.std)]
    # The text form tells layers apart that have equal weights, such as those with another padding.
    return folder_name(_VERSION, str(backbone), weights_digest(backbone), list(mapped.levels), means, list(size))


@torch.inference_mode()
def _maps(network: nn.Module, mapped: MappedNetwork, image: Tensor, flip: bool) -> dict[str, Tensor]:
    device = next(network.parameters()).device
    whole = (image.flip(-1) if flip else image)[None].to(device)
    found = {str(level): maps[0].cpu().contiguous() for level, maps in enumerate(mapped.maps(whole))}
    half = {level: maps.half() for level, maps in found.items()}
    if not all(bool(torch.isfinite(maps).all()) for maps in half.values()):
        raise ConfigError("the feature maps of this backbone are not finite in float16: choose another backbone")
    return half


def _is_whole(file: Path) -> bool:
    """Return whether a file of maps is complete; its header says how long it is."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as content:
            return bool(content.keys())
    except _DAMAGE:
        return False


def _write(file: Path, maps: dict[str, Tensor]) -> None:
    with os_errors_as(ConfigError, f"{file} cannot be written"), replacing(file) as temporary:
        temporary.write_bytes(save(maps))  # `save_file` would let only this user read the file


def _part(level: Any, view: GridView, grid: Grid) -> Tensor:
    _, height, width = level.get_shape()
    high, wide = height // grid.cells[0], width // grid.cells[1]
    top, left, rows, columns = view.box
    part: Tensor = level[:, top * high : (top + rows) * high, left * wide : (left + columns) * wide]
    return part
