# The names that users may rely on; each is imported when it is first used.
from .choice import choose_source
from .mask_figures import ClassMaskFigures, MaskFigures, MaskMeter, measure_masks
from .training_facts import ClassTrainingFacts, TrainingFacts, training_facts
from .verdict import ClassVerdict, Finding, Verdict, judge

__all__ = [
    "ClassMaskFigures",
    "ClassTrainingFacts",
    "ClassVerdict",
    "Finding",
    "MaskFigures",
    "MaskMeter",
    "TrainingFacts",
    "Verdict",
    "choose_source",
    "judge",
    "measure_masks",
    "training_facts",
]
