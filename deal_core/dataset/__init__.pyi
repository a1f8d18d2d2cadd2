# The names that users may rely on; each is imported when it is first used.
from .dataset import Dataset, FrameRecord
from .depth_estimation import DepthEstimator, write_depth_maps
from .depth_maps import DepthMaps
from .extract import ExtractOptions, extract_recording
from .open import open_dataset
from .settings import DataSettings, SourceSettings
from .transforms import TensorSample, TrainTransform, to_tensors
from .writer import DatasetWriter

__all__ = [
    "DataSettings",
    "Dataset",
    "DatasetWriter",
    "DepthEstimator",
    "DepthMaps",
    "ExtractOptions",
    "FrameRecord",
    "SourceSettings",
    "TensorSample",
    "TrainTransform",
    "extract_recording",
    "open_dataset",
    "to_tensors",
    "write_depth_maps",
]
