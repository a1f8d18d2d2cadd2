# The names that users may rely on; each is imported when it is first used.
from .kept_maps import KeptMaps, keep_maps

__all__ = ["KeptMaps", "keep_maps"]
