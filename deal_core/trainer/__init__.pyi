# The names that users may rely on; each is imported when it is first used.
from .cam_training import TrainResult, train
from .distillation import DistillResult, distill
from .figures import ClassFigures, TrainingFigures
from .loop import Progress, fit
from .settings import DistillSettings, TrainSettings

__all__ = [
    "ClassFigures",
    "DistillResult",
    "DistillSettings",
    "Progress",
    "TrainResult",
    "TrainSettings",
    "TrainingFigures",
    "distill",
    "fit",
    "train",
]
