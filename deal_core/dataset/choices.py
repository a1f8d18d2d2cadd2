"""The values of options and settings of datasets that are one of a few words; importing them loads nothing else."""

from typing import Literal

Layout = Literal["deal", "voc", "coco", "bop"]
"""Layout of a dataset folder: this project's own, or the official one of PASCAL VOC, MS COCO or a BOP dataset."""

OfficialLayout = Literal["voc", "coco", "bop", "hope"]
"""Layout of a published dataset; `hope` is `bop` with the sequences of HOPE's static onboarding expected."""

ClassIds = Literal["contiguous", "category"]
"""Class ids of COCO: 1 to 80 without gaps, or the category ids 1 to 90."""

ColorFormat = Literal["png", "jpeg"]
"""File format of colour images in a dataset: lossless, or smaller."""

DepthPrecision = Literal["float32", "float16", "bfloat16"]
"""Floating-point type in which depth is estimated."""
