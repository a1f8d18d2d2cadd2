# The names that users may rely on; each is imported when it is first used.
from .choice import MaskSource, choose_source, judge_source
from .frame_scores import FrameQuality, score_masks
from .mask_figures import ClassMaskFigures, MaskFigures, MaskMeter, measure_masks
from .training_facts import ClassTrainingFacts, TrainingFacts, facts_of_training
from .verdict import ClassVerdict, Finding, Verdict, judge

__all__ = [
    "ClassMaskFigures",
    "ClassTrainingFacts",
    "ClassVerdict",
    "Finding",
    "FrameQuality",
    "MaskFigures",
    "MaskMeter",
    "MaskSource",
    "TrainingFacts",
    "Verdict",
    "choose_source",
    "facts_of_training",
    "judge",
    "judge_source",
    "measure_masks",
    "score_masks",
]
