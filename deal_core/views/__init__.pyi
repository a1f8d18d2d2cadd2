# The names that users may rely on; each is imported when it is first used.
from .fusion import FusedScores
from .place_map import PlaceMap
from .warp import agreement, warp_scores

__all__ = ["FusedScores", "PlaceMap", "agreement", "warp_scores"]
