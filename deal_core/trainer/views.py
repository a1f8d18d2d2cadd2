"""Training frames, their random views, and the order of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from deal_core.dataset.settings import DataSettings
from deal_core.dataset.transforms import TensorSample, TrainTransform, resize_sample, to_tensors
from deal_core.errors import DealError
from deal_core.features.grid import crop_maps
from deal_core.features.kept_maps import MapFolder, read_maps, require_mapped
from deal_core.structures import Int64Array, Sample
from deal_core.trainer.frozen_views import FrozenViews
from deal_core.trainer.settings import RunSettings


class Frames(Protocol):
    """Frames to train on, such as a `Dataset`."""

    def __len__(self) -> int: ...

    def load(self, frame: int) -> Sample:
        """Read one frame; raise `DatasetError` if a file is missing or damaged."""


class Views(TorchDataset["TensorSample | DealError"]):
    """Random views of frames; the index of an item is (frame, seed of the view).

    `frame_weights` say how often an epoch shows each frame, relative to the others; None: each once. `epoch` is the
    number of views of an epoch; None: one for each frame. With `frozen`, views differ by flips and grid crops alone.

    The item of an unreadable frame is the error itself: an error raised in a worker would carry the worker's traceback
    in its message.
    """

    def __init__(
        self,
        frames: Frames,
        settings: RunSettings,
        *,
        with_mask: bool = False,
        frame_weights: Sequence[float] | None = None,
        epoch: int | None = None,
        frozen: FrozenViews | None = None,
    ) -> None:
        self._frames = frames
        self.epoch = len(frames) if epoch is None else epoch
        self.frame_weights = None if frame_weights is None else tuple(frame_weights)
        self._settings = settings.data
        self._transform = TrainTransform(settings.data, with_mask=with_mask)
        self._frozen, self._with_mask = frozen, with_mask
        self._cache: dict[int, Sample] | None = {} if settings.data.cache or (frozen and frozen.maps) else None

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, item: tuple[int, int]) -> TensorSample | DealError:
        frame, seed = item
        try:
            if self._frozen is not None:
                return self._frozen.view(self._load(frame), frame, seed, self._settings.flip, with_mask=self._with_mask)
            return self._transform(self._load(frame), seed)
        except DealError as error:
            return error

    def _load(self, frame: int) -> Sample:
        if self._cache is None:
            return self._frames.load(frame)
        if frame not in self._cache:
            sample = self._frames.load(frame)
            if self._frozen is not None:
                self._cache[frame] = self._frozen.prepare(sample)
            else:
                size = cached_size(sample.image.shape[:2], self._settings)
                self._cache[frame] = sample if size is None else resize_sample(sample, size)
        return self._cache[frame]


def cached_size(size: tuple[int, ...], settings: DataSettings) -> tuple[int, int] | None:
    """Return the (height, width) at which an image of `size` is cached; None if it is not made smaller.

    A view of the whole image needs the size of the network. Crops are enlarged to that size, so the cached image keeps
    its shape at twice that size. A canvas view needs the largest size at which it places the image.
    """
    height, width = size
    like_height, like_width = settings.image_size
    if settings.crop == "resized" and settings.crop_scale == (1.0, 1.0):
        return settings.image_size if height > like_height else None
    if settings.crop == "canvas":
        factor = settings.long_side[1] / max(size)
    else:
        factor = max(2 * like_height / height, 2 * like_width / width)
    return (round(height * factor), round(width * factor)) if factor < 1 else None


@dataclass(frozen=True)
class BatchOrder:
    """The batches of one process for the steps `start` to `stop`, each a list of (frame, seed of its view).

    They depend on the seed only, and neither on the number of processes nor on interruptions of the run. An epoch has
    `epoch` views, one for each frame by default. With one of `weights` for each frame, it shows each as often as its
    weight says, up to rounding.
    """

    frames: int
    batch_size: int
    seed: int
    start: int
    stop: int
    rank: int = 0
    world_size: int = 1
    weights: tuple[float, ...] | None = None
    epoch: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps_per_epoch = self._length // self.batch_size
        for step in range(self.start, self.stop):
            epoch, within = divmod(step, steps_per_epoch)
            order = self._epoch(np.random.default_rng([self.seed, epoch]))
            chosen = order[within * self.batch_size : (within + 1) * self.batch_size]
            views = np.random.default_rng([self.seed, epoch, within]).integers(2**31, size=self.batch_size)
            pairs = list(zip(chosen.tolist(), views.tolist(), strict=True))
            yield pairs[self.rank :: self.world_size]

    @property
    def _length(self) -> int:
        return self.frames if self.epoch is None else self.epoch

    def _epoch(self, rng: np.random.Generator) -> Int64Array:
        """Return the frames of one epoch, in order."""
        if self.weights is None:
            return rng.permutation(self.frames)
        ends = np.cumsum(self.weights) / np.sum(self.weights)
        places = (np.arange(self._length) + rng.random()) / self._length
        return rng.permutation(np.minimum(np.searchsorted(ends, places, side="right"), self.frames - 1))


def plain_batches(
    frames: Frames,
    settings: RunSettings,
    device: torch.device,
    *,
    with_mask: bool = False,
    network: nn.Module | None = None,
) -> Iterator[TensorSample]:
    """Yield batches of the frames at the size of the network, without augmentation.

    With a `network`, they have its kept feature maps beside the images, if `data.features` is set.
    """
    data = settings.data
    kept = MapFolder(network, data.image_size, data.features) if network and data.features else None
    for start in range(0, len(frames), settings.batch_size):
        indices = range(start, min(start + settings.batch_size, len(frames)))
        sized = [resize_sample(frames.load(index), data.image_size) for index in indices]
        views = [to_tensors(sample, with_mask=with_mask) for sample in sized]
        if kept is not None:
            maps = [read_maps(kept.keep(sample)) for sample in sized]
            views = [replace(view, maps=levels) for view, levels in zip(views, maps, strict=True)]
        yield _collate(views).map(lambda tensor: tensor.to(device))


def output_of(network: nn.Module, batch: TensorSample) -> Any:
    """Return the output of a network for a batch: from its feature maps, if it has them, or else from its images.

    Args:
        network: Network without depth; a `MappedNetwork` for maps and crops.
        batch: Batch of views.
    """
    if batch.maps is not None:
        return require_mapped(network).of_maps(batch.maps)
    image = batch.image.contiguous(memory_format=torch.channels_last)
    if batch.box is None:
        return network(image)
    mapped = require_mapped(network)
    return mapped.of_maps(crop_maps(mapped.maps(image), batch.box))


def collate_or_error(samples: list[TensorSample | DealError]) -> TensorSample | DealError:
    """Return a batch of the views, or the first error among them."""
    views = [sample for sample in samples if isinstance(sample, TensorSample)]
    failed = [sample for sample in samples if isinstance(sample, DealError)]
    return failed[0] if failed else _collate(views)


def _collate(samples: list[TensorSample]) -> TensorSample:
    tensors = [default_collate([getattr(s, name) for s in samples]) for name in ("image", "depth", "valid", "tags")]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    maps = [sample.maps for sample in samples if sample.maps is not None]
    boxes = [sample.box for sample in samples if sample.box is not None]
    numbers = [sample.view for sample in samples if sample.view is not None]
    image, depth, valid, tags = tensors
    return TensorSample(
        image,
        depth,
        valid,
        tags,
        default_collate(masks) if masks else None,
        tuple(torch.stack(level) for level in zip(*maps, strict=True)) if maps else None,
        torch.stack(boxes) if boxes else None,
        torch.stack(numbers) if numbers else None,
    )
