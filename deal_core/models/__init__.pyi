# The names that users may rely on; each is imported when it is first used.
from .cam_net import CamNet
from .domain_change import DomainChange, FineTuneReport
from .earlier_model import ClassChanges, start_from
from .factory import create_model
from .model_file import LoadedModel, load_model, save_model
from .model_info import ModelInfo, Threshold, read_info
from .output import CamOutput, SegmenterOutput
from .region_mil import RegionMil
from .seam import Seam
from .segmenter import SegmenterNet
from .weaktr import WeakTr

__all__ = [
    "CamNet",
    "CamOutput",
    "ClassChanges",
    "DomainChange",
    "FineTuneReport",
    "LoadedModel",
    "ModelInfo",
    "RegionMil",
    "Seam",
    "SegmenterNet",
    "SegmenterOutput",
    "Threshold",
    "WeakTr",
    "create_model",
    "load_model",
    "read_info",
    "save_model",
    "start_from",
]
