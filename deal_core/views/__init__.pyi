# The names that users may rely on; each is imported when it is first used.
from .fusion import FusedScores
from .odometry import EstimatedPoses, estimate_poses
from .place_map import PlaceMap
from .warp import agreement, warp_scores

__all__ = ["EstimatedPoses", "FusedScores", "PlaceMap", "agreement", "estimate_poses", "warp_scores"]
