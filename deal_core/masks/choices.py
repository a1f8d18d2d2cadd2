"""Literal types of the options of class scores and masks, in a module without other imports."""

from typing import Literal

TagSource = Literal["given", "predicted"]
"""Source of the present classes: the tags of the frame, or the prediction of the network."""

ImageSize = Literal["model", "image"]
"""Image size at scale 1: the input size of the model file, or the size of the image."""

Precision = Literal["32", "bf16"]
"""Numbers in which a network computes scores: float32, or bfloat16 where PyTorch's autocast takes it."""

Normalisation = Literal["max", "min_max"]
"""Normalisation of a class activation map: by its maximum, or, as WeakTr and SEAM do, by minimum and maximum."""
