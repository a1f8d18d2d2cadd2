# The names that users may rely on; each is imported when it is first used.
from .parts import connected_parts
from .planes import Planes, find_planes

__all__ = [
    "Planes",
    "connected_parts",
    "find_planes",
]
