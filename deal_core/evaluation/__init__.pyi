# The names that users may rely on; each is imported when it is first used.
from .agreement import AgreementEvaluator
from .evaluate import Predictions, evaluate_masks, evaluate_model, evaluate_predictions
from .flicker import Flicker
from .metrics import BoundaryScore, ClassScore, ConfusionMatrix, FrameScore, MaskEvaluator, MaskScore
from .result import EvaluationResult
from .seeds import SeedSummary, summarise_seeds
from .sweep import SweepCurve, ThresholdChoice, ThresholdSweep

__all__ = [
    "AgreementEvaluator",
    "BoundaryScore",
    "ClassScore",
    "ConfusionMatrix",
    "EvaluationResult",
    "Flicker",
    "FrameScore",
    "MaskEvaluator",
    "MaskScore",
    "Predictions",
    "SeedSummary",
    "SweepCurve",
    "ThresholdChoice",
    "ThresholdSweep",
    "evaluate_masks",
    "evaluate_model",
    "evaluate_predictions",
    "summarise_seeds",
]
