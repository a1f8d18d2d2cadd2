# The names that users may rely on; each is imported when it is first used.
from .cam_training import TrainResult, train
from .distillation import DistillResult, Round
from .figures import ClassFigures, TrainingFigures
from .fine_tune_request import FineTuneRequest, fine_tune_settings
from .loop import Progress, fit
from .rounds import distill
from .settings import DistillSettings, TrainSettings

__all__ = [
    "ClassFigures",
    "DistillResult",
    "DistillSettings",
    "FineTuneRequest",
    "Progress",
    "Round",
    "TrainResult",
    "TrainSettings",
    "TrainingFigures",
    "distill",
    "fine_tune_settings",
    "fit",
    "train",
]
