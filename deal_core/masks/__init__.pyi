# The names that users may rely on; each is imported when it is first used.
from .class_scores import multi_scale_scores
from .decide import predict_mask, pseudo_mask, winning_class
from .mask_folder import read_cam, read_mask, write_cams
from .score_dataset import CamSettings, ScoredFrame, choose_threshold, score_frames
from .threshold_rules import ThresholdRule, create_rule

__all__ = [
    "CamSettings",
    "ScoredFrame",
    "ThresholdRule",
    "choose_threshold",
    "create_rule",
    "multi_scale_scores",
    "predict_mask",
    "pseudo_mask",
    "read_cam",
    "read_mask",
    "score_frames",
    "winning_class",
    "write_cams",
]
