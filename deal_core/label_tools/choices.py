"""Literal types of the options of masks of other tools, in a module without other imports."""

from typing import Literal

ImportFormat = Literal["auto", "png", "coco", "cvat", "cvat-masks", "label-studio", "yolo", "ade"]
"""Where masks come from; auto finds out by the files."""

ExportFormat = Literal["cvat", "label-studio", "coco", "png"]
"""What masks are written for."""

BoxUse = Literal["refuse", "draw", "skip"]
"""Use of a box without an outline: an error, its pixels, or nothing."""

OtherUse = Literal["refuse", "background", "unlabelled"]
"""Use of the pixels of a name that is no class: an error, background, or unlabelled (255)."""

VetoedUse = Literal["background", "unlabelled"]
"""What the pixels of a class become that the tags of the frame exclude."""

MissingUse = Literal["keep", "unlabelled", "skip"]
"""Use of a mask without a class that is tagged present: as it is, with its background unlabelled, or not at all."""
