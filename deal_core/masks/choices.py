"""The values of options of class scores and masks that are one of a few words; importing them loads nothing else."""

from typing import Literal

TagSource = Literal["given", "predicted"]
"""Which classes may score: those tagged present in the frame, or those that the network predicts."""

ImageSize = Literal["model", "image"]
"""Image size at scale 1: the input size of the model file, or the size of the image."""

Normalisation = Literal["max", "min_max"]
"""How a class activation map becomes a score: divided by its maximum, or stretched from its minimum to its maximum."""
