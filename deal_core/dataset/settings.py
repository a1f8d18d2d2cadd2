"""Settings that say which frames to use, and how they are augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from deal_core.dataset.choices import ClassIds, Layout
from deal_core.settings_file import (
    Fraction,
    NotNegative,
    Number,
    PositiveFraction,
    PositiveWhole,
    Settings,
    Size,
    Whole,
    refuse_falling,
)


class SourceSettings(Settings):
    """Which images to read, in which layout."""

    path: Path
    """The dataset folder."""
    format: Layout = "deal"
    """Its layout: `deal extract`'s, or the official one of PASCAL VOC, MS COCO or a BOP dataset."""
    split: str = ""
    """Which list of it: train, train_aug, val of VOC; train2014, val2014 of COCO; a folder such as onboarding_static
    of BOP. The layout's training list when left out; a deal dataset has none."""
    recordings: tuple[str, ...] = ()
    """Which recordings (of a deal dataset) or sequences (of BOP); all when empty."""
    depth: Path | None = None
    """Folder of depth maps made by `deal depth`, in place of the sensor's; VOC and COCO have none of their own."""
    class_ids: ClassIds = "contiguous"
    """Of COCO: 80 classes without gaps, or one for each category id 1 to 90."""


class DataSettings(SourceSettings):
    """What to train on, and how images are changed on the way."""

    validation_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Share of the segments held out to watch the tag loss; no masks are ever read in training."""
    image_size: Size = (240, 320)
    """(height, width) the network works at."""
    crop: Literal["resized", "canvas"] = "resized"
    """A random part of the image enlarged to `image_size`; or the image at a random `long_side`, of which a window
    of `image_size` is taken (and filled up with ImageNet's mean colour where it is smaller), as SEAM does."""
    crop_scale: Annotated[tuple[PositiveFraction, PositiveFraction], AfterValidator(refuse_falling)] = (0.5, 1.0)
    """Of a resized crop: smallest and largest share of the image's area that it keeps; (1, 1) switches it off."""
    crop_shape: Literal["image", "network"] = "image"
    """Of a resized crop: its shape is near that of the image, or of `image_size`, as timm has it."""
    crop_stretch: Annotated[Number, Field(ge=1)] = 4 / 3
    """Of a resized crop: how far its shape may differ from that of `crop_shape`, as a factor on width / height."""
    long_side: Annotated[tuple[PositiveWhole, PositiveWhole], AfterValidator(refuse_falling)] = (448, 768)
    """Of a canvas crop: smallest and largest length of the image's longer side, pixels."""
    flip: bool = True
    """Mirror half of the images."""
    rotation: NotNegative = 0.0
    """Largest random rotation, degrees; what is rotated in from outside has no depth."""
    color_jitter: Fraction = 0.3
    """Strength of random changes of brightness, contrast and saturation."""
    color_hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Strength of random changes of hue, as a share of the colour circle."""
    rand_augment: Annotated[Whole, Field(ge=0)] = 0
    """Operations of RandAugment an image, each made with probability 0.5; depth follows those that move pixels."""
    rand_augment_magnitude: Annotated[Number, Field(ge=0, le=10)] = 9.0
    """How strong they are."""
    erase: Fraction = 0.0
    """Share of the images in which a random box is replaced by noise, and its depth by none."""
    workers: Annotated[Whole, Field(ge=0)] = 0
    """Processes that load images beside the training process."""
    cache: bool = False
    """Keep decoded images in memory, made no larger than the random views of them need."""
