# The names that users may rely on; each is imported when it is first used.
from .filling import FilledDepth, fill_depth, fill_depth_image
from .parts import connected_parts
from .planes import Planes, find_planes

__all__ = [
    "FilledDepth",
    "Planes",
    "connected_parts",
    "fill_depth",
    "fill_depth_image",
    "find_planes",
]
