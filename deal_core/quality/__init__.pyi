# The names that users may rely on; each is imported when it is first used.
from .choice import choose_source
from .mask_figures import ClassMaskFigures, MaskFigures, MaskMeter, measure_masks
from .tag_figures import ClassTagFigures, TagFigures, measure_tags
from .training_facts import TrainingFacts, training_facts
from .verdict import ClassVerdict, Finding, Verdict, judge

__all__ = [
    "ClassMaskFigures",
    "ClassTagFigures",
    "ClassVerdict",
    "Finding",
    "MaskFigures",
    "MaskMeter",
    "TagFigures",
    "TrainingFacts",
    "Verdict",
    "choose_source",
    "judge",
    "measure_masks",
    "measure_tags",
    "training_facts",
]
