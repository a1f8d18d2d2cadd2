# The names that users may rely on; each is imported when it is first used.
from .crf import CrfSettings, dense_crf
from .par import ParSettings, pixel_adaptive_refinement
from .refinement import refine_scores, refinement_settings
from .regions import RegionSettings, average_over_regions
from .walk import WalkSettings, random_walk

__all__ = [
    "CrfSettings",
    "ParSettings",
    "RegionSettings",
    "WalkSettings",
    "average_over_regions",
    "dense_crf",
    "pixel_adaptive_refinement",
    "random_walk",
    "refine_scores",
    "refinement_settings",
]
