# The names that users may rely on; each is imported when it is first used.
from .agreement import AgreementEvaluator
from .decisions import forget_decisions
from .evaluate import Predictions, evaluate_masks, evaluate_model, evaluate_predictions, evaluate_shard
from .flicker import Flicker
from .metrics import BoundaryScore, ClassScore, ConfusionMatrix, FrameScore, MaskEvaluator, MaskScore
from .result import EvaluationResult
from .seeds import SeedSummary, summarise_seeds
from .shards import Shard
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
    "Shard",
    "SweepCurve",
    "ThresholdChoice",
    "ThresholdSweep",
    "evaluate_masks",
    "evaluate_model",
    "evaluate_predictions",
    "evaluate_shard",
    "forget_decisions",
    "summarise_seeds",
]
