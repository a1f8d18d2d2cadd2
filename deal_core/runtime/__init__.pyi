# The names that users may rely on; each is imported when it is first used.
from .objects import PixelBox, SceneObject, find_objects, object_id, object_mask
from .onnx_export import Exported, export_onnx
from .quantisation import Quantised, quantise
from .segmenter import Segmentation, Segmenter

__all__ = [
    "Exported",
    "PixelBox",
    "Quantised",
    "SceneObject",
    "Segmentation",
    "Segmenter",
    "export_onnx",
    "find_objects",
    "object_id",
    "object_mask",
    "quantise",
]
