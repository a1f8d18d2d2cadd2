# The names that users may rely on; each is imported when it is first used.
from .cam_training import TrainResult, train
from .distillation import DistillResult, distill
from .loop import Progress, fit
from .settings import DistillSettings, TrainSettings

__all__ = [
    "DistillResult",
    "DistillSettings",
    "Progress",
    "TrainResult",
    "TrainSettings",
    "distill",
    "fit",
    "train",
]
