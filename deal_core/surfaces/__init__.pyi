# The names that users may rely on; each is imported when it is first used.
from .filling import FilledDepth, fill_depth, fill_depth_image

__all__ = [
    "FilledDepth",
    "fill_depth",
    "fill_depth_image",
]
