"""Settings of the dataset to read and of its augmentation."""

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
    """A dataset and its layout."""

    path: Path
    """Folder of the dataset."""
    format: Layout = "deal"
    """Layout of the dataset: that of `deal extract`, or the official one of PASCAL VOC, MS COCO or BOP."""
    split: str = ""
    """Split to read: train, train_aug or val of VOC; train2014 or val2014 of COCO; a folder of BOP, such as
    onboarding_static. The layout's training split if empty; a deal dataset has no splits."""
    recordings: tuple[str, ...] = ()
    """Recordings (of a deal dataset) or sequences (of BOP) to read; all if empty."""
    depth: Path | None = None
    """Folder of depth maps made by `deal depth`, used instead of the sensor's depth; VOC and COCO have no depth."""
    class_ids: ClassIds = "contiguous"
    """Classes of COCO: 80 classes without gaps, or one for each category id 1 to 90."""


Rehearsal = tuple[Path, Annotated[Number, Field(ge=0, lt=1)]]
"""An earlier dataset (of `deal extract`), and the share of the training that its frames make up."""


class DataSettings(SourceSettings):
    """The dataset to train on, and its augmentation."""

    validation_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Share of the segments held out to monitor the tag loss; training never reads masks."""
    image_size: Size = (240, 320)
    """(height, width) of the network's input."""
    crop: Literal["resized", "canvas", "grid"] = "resized"
    """resized: a random part of the image, resized to `image_size`. canvas: a window of `image_size` in the image at a
    random `long_side`, padded with ImageNet's mean colour, as in SEAM. grid: the backbone sees the whole image, and its
    feature maps are cropped along their cells."""
    crop_scale: Annotated[tuple[PositiveFraction, PositiveFraction], AfterValidator(refuse_falling)] = (0.5, 1.0)
    """Smallest and largest share of the image's area in a resized crop; (1, 1) switches cropping off."""
    crop_shape: Literal["image", "network"] = "image"
    """Aspect ratio of a resized crop: near that of the image, or of `image_size`, as in timm."""
    crop_stretch: Annotated[Number, Field(ge=1)] = 4 / 3
    """Largest factor between the aspect ratio of a resized crop and that of `crop_shape`."""
    crop_resample: Literal["bilinear", "bicubic"] = "bilinear"
    """How a resized crop is resampled, with an antialiasing filter; published recipes of WeakTr: bicubic."""
    long_side: Annotated[tuple[PositiveWhole, PositiveWhole], AfterValidator(refuse_falling)] = (448, 768)
    """Smallest and largest length of the image's longer side in a canvas crop, pixels."""
    flip: bool = True
    """Mirror half of the images."""
    rotation: NotNegative = 0.0
    """Largest random rotation, degrees; pixels from outside the image have no depth."""
    color_jitter: Fraction = 0.3
    """Strength of random changes of brightness, contrast and saturation."""
    color_hue: Annotated[Number, Field(ge=0, le=0.5)] = 0.0
    """Strength of random changes of hue, as a share of the colour circle."""
    rand_augment: Annotated[Whole, Field(ge=0)] = 0
    """Number of RandAugment operations per image, each with probability 0.5; depth follows those that move pixels."""
    rand_augment_magnitude: Annotated[Number, Field(ge=0, le=10)] = 9.0
    """Strength of the RandAugment operations."""
    erase: Fraction = 0.0
    """Share of the images in which a random box becomes noise without depth."""
    workers: Annotated[Whole, Field(ge=0)] = 0
    """Number of processes that load images beside the training process."""
    cache: bool = False
    """Keep decoded images in memory, at most as large as the random views need."""
    rehearse: Rehearsal | None = None
    """[dataset, share]: an earlier dataset, frames of which make up this share of the training, so that what was learnt
    from it is not lost. Share 0 only measures what was lost. It needs `init_from`."""
    features: Path | None = None
    """Folder of feature maps (`deal features`) for a frozen backbone; maps that it lacks are made and kept. Views then
    differ by flips and grid crops alone."""
