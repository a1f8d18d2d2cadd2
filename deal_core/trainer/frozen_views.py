"""Training of the layers after a frozen backbone, on views that its feature maps can be kept for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from deal_core.dataset.transforms import TensorSample, resize_sample, to_tensors
from deal_core.errors import ConfigError
from deal_core.features.grid import Grid, plan_grid
from deal_core.features.kept_maps import KeptMaps, LoadedFrames, keep_maps, require_mapped
from deal_core.structures import Sample
from deal_core.trainer.settings import RunSettings, TrainSettings

_log = logging.getLogger(__name__)

PIXEL_CHANGES = ("rotation", "color_jitter", "color_hue", "rand_augment", "erase")
"""Settings of `data` that change what the backbone sees, and must be 0 where it is frozen."""


@dataclass(frozen=True)
class FrozenViews:
    """Views for a frozen backbone: a flip, and a crop of its feature maps.

    Args:
        grid: The crops.
        size: (height, width) of the image for the backbone.
        maps: The feature maps of the frames and of their mirror images; None: the network makes them from the image.
    """

    grid: Grid
    size: tuple[int, int]
    maps: KeptMaps | None

    def prepare(self, sample: Sample) -> Sample:
        """Return what views need of a sample: at the size for the backbone, and no image if maps replace it."""
        sized = resize_sample(sample, self.size)
        return sized if self.maps is None else replace(sized, image=np.zeros((0, 0, 3), np.uint8))

    def view(self, sample: Sample, frame: int, seed: int, flip: bool, *, with_mask: bool) -> TensorSample:
        """Return one view of a frame; the same seed gives the same view.

        Args:
            sample: The frame.
            frame: Its index.
            seed: Seed of the view.
            flip: Whether half of the views are mirrored.
            with_mask: Whether to return the mask, too.
        """
        if sample.depth.shape != self.size:
            sample = self.prepare(sample)
        view = self.grid.view(seed, flip=flip)
        whole = to_tensors(sample, with_mask=with_mask)
        if view.flip:
            whole = whole.map(lambda tensor: tensor.flip(-1) if tensor.ndim > 1 else tensor)
        rows, columns = self.grid.pixel_slices(view)
        cut = [tensor[..., rows, columns] for tensor in (whole.depth, whole.valid)]
        mask = None if whole.mask is None else whole.mask[rows, columns]
        maps = None if self.maps is None else self.maps.read_view(frame, view, self.grid)
        image = whole.image if maps is None else torch.zeros(3, 0, 0)
        box = torch.tensor((*view.box, *self.grid.cells)) if maps is None and not self.grid.is_whole else None
        number = torch.tensor([2 * frame + view.flip]) if self.grid.is_whole else None
        return TensorSample(image, cut[0], cut[1], whole.tags, mask, maps, box, number)


def freeze(
    network: nn.Module, frames: LoadedFrames, held_out: LoadedFrames, settings: RunSettings, device: torch.device
) -> FrozenViews | None:
    """Return the views for a frozen backbone, whose maps are kept if `data.features` is set; None without grid crops.

    Args:
        network: The network, on the CPU.
        frames: Training frames.
        held_out: Held-out frames, whose maps are kept, too.
        settings: Settings of the run.
        device: Device on which missing maps are made.

    Raises:
        ConfigError: the settings or the network do not suit a frozen backbone, or the maps cannot be written.
        DatasetError: a frame cannot be read.
    """
    data = settings.data
    if data.crop != "grid":
        if data.features is not None:
            raise ConfigError("data.features needs data.crop=grid: kept feature maps can be flipped and cropped alone")
        return None
    _check(network, settings)
    mapped = require_mapped(network)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            shapes = [tuple(level.shape) for level in mapped.maps(torch.zeros(1, 3, *data.image_size))]
    except ValueError as error:
        raise ConfigError(f"data.crop=grid: {error} (data.image_size)") from error
    network.train(was_training)
    grid = plan_grid(shapes, data.image_size, data.crop_scale[0])
    if data.features is None:
        return FrozenViews(grid, data.image_size, None)
    if not data.features.exists():
        _log.warning(
            "%s: the feature maps of %d frames are made first, as by `deal features`", data.features, len(frames)
        )
    network.to(device)
    keep_maps(network, held_out, data.image_size, data.features, flip=False)
    maps = keep_maps(network, frames, data.image_size, data.features, flip=data.flip)
    network.cpu()
    return FrozenViews(grid, data.image_size, maps)


def _check(network: nn.Module, settings: RunSettings) -> None:
    data = settings.data
    if settings.optimizer.backbone_factor != 0:
        raise ConfigError("data.crop=grid needs a frozen backbone: set optimizer.backbone_factor=0")
    if not getattr(network, "freeze_batch_norm", True):
        raise ConfigError(
            "data.crop=grid needs a frozen backbone, and its BatchNorm is not: set "
            "model.arguments.freeze_batch_norm=true"
        )
    for name in PIXEL_CHANGES:
        if getattr(data, name):
            raise ConfigError(f"data.crop=grid cannot change what the frozen backbone sees: set data.{name}=0")
    if data.crop_scale[0] != data.crop_scale[1]:
        raise ConfigError(
            f"data.crop=grid takes crops of one size: expected two equal numbers for data.crop_scale, found "
            f"{list(data.crop_scale)}"
        )
    if isinstance(settings, TrainSettings) and settings.fsl.weight > 0:
        raise ConfigError("data.crop=grid has no place for fsl.weight, whose loss compares colours: set it to 0")
