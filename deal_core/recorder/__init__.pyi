# The names that users may rely on; each is imported when it is first used.
from .collect import Collected, collect_pairs
from .controls import RecorderControls
from .pair_recorder import PairRecorder, RecorderSettings, RecorderState
from .realsense import RealSense, RgbdFrame, StreamRequest
from .summary import RecordingSummary

__all__ = [
    "Collected",
    "PairRecorder",
    "RealSense",
    "RecorderControls",
    "RecorderSettings",
    "RecorderState",
    "RecordingSummary",
    "RgbdFrame",
    "StreamRequest",
    "collect_pairs",
]
