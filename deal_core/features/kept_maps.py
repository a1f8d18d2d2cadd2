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
        return read_maps((self.flipped if flip else self.files)[frame])

    def read_view(self, frame: int, view: GridView, grid: Grid) -> tuple[Tensor, ...]:
        """Return a view of the maps of a frame; of a crop, only its part of the file is read."""
        file = (self.flipped if view.flip else self.files)[frame]
        return read_maps(file) if grid.is_whole else read_maps(file, lambda level: _part(level, view, grid))


class MapFolder:
    """Feature maps on disk of one backbone, at one image size.

    They are those of the network in evaluation mode, for one image at a time. The name of a subfolder follows from the
    layers and weights of the backbone, its levels, the colours that it expects and the image size; that of a file from
    the pixels. So one folder serves several datasets, and models that share a backbone.

    Args:
        network: A `MappedNetwork`, on any device.
        size: (height, width) of the image for the network.
        folder: Folder for the maps.

    Raises:
        ConfigError: the network has no such maps.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int], folder: Path) -> None:
        self._network, self._mapped = network, require_mapped(network)
        self._folder = folder / _name(network, self._mapped, size)

    def keep(self, sample: Sample, *, flip: bool = False) -> Path:
        """Return the file of the maps of a sample of the network's size, or of its mirror image; make what is missing.

        Raises:
            ConfigError: a value is too large for float16, or the file cannot be written.
        """
        name = pixels_name(sample.key, sample.image)
        file = self._folder / f"{name}{'.flip' if flip else ''}.safetensors"
        if not _is_whole(file):
            was_training = self._network.training
            self._network.eval()
            _write(file, _maps(self._network, self._mapped, image_to_tensor(sample.image), flip))
            self._network.train(was_training)
        return file


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

    Args:
        network: A `MappedNetwork`, on any device.
        frames: Frames.
        size: (height, width) of the image for the network.
        folder: Folder for the maps, see `MapFolder`.
        flip: Whether to keep the maps of mirror images, too.
        advance: Function to call with the number of completed frames.

    Raises:
        DatasetError: a frame cannot be read.
        ConfigError: the network has no such maps, a value is too large for float16, or the folder cannot be written.
    """
    kept = MapFolder(network, size, folder)
    files: dict[bool, list[Path]] = {False: [], True: []}
    for frame in range(len(frames)):
        sample = resize_sample(frames.load(frame), size)
        for is_flipped in (False, True) if flip else (False,):
            files[is_flipped].append(kept.keep(sample, flip=is_flipped))
        advance(frame + 1)
    return KeptMaps(tuple(files[False]), tuple(files[True]))


def read_maps(file: Path, part: Callable[[Any], Tensor] = lambda level: level[:]) -> tuple[Tensor, ...]:
    """Return the maps (C, h, w) of a file, float16, from fine to coarse, or a part of each.

    Args:
        file: File of `MapFolder.keep`.
        part: Function that cuts a slice of safetensors.

    Raises:
        ConfigError: the file was removed or damaged meanwhile.
    """
    try:
        with safe_open(file, framework="pt") as content:
            return tuple(part(content.get_slice(str(level))) for level in range(len(content.keys())))
    except _DAMAGE as error:
        raise ConfigError(f"{file} cannot be read ({error}): start the command again, which makes it again") from None


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
