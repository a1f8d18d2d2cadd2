# The names that users may rely on; each is imported when it is first used.
from .figures import ClassFigures, RegionFigures
from .proposals import Proposals, propose_regions
from .scores import region_scores
from .settings import RegionTrainSettings
from .training import RegionResult, train_regions

__all__ = [
    "ClassFigures",
    "Proposals",
    "RegionFigures",
    "RegionResult",
    "RegionTrainSettings",
    "propose_regions",
    "region_scores",
    "train_regions",
]
