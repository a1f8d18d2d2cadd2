"""Where the project's own folders lie, and the real frames and weights, which are not the project's."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HELPERS = Path(__file__).parent
CONFIG = PROJECT / "config"
_SHARED = PROJECT.parent / "shared"

FRAMES_VARIABLE, WEIGHTS_VARIABLE = "DEAL_REAL_FRAMES", "DEAL_REAL_WEIGHTS"
REAL_FRAMES = Path(os.environ.get(FRAMES_VARIABLE) or _SHARED / "data" / "ycb_video")
"""Folder of real frames; `helpers.real_frames` describes its layout."""
MOBILENET = Path(os.environ.get(WEIGHTS_VARIABLE) or _SHARED / "weights" / "mobilenetv2_100.safetensors")
"""Weights of timm's mobilenetv2_100."""
CASES = _SHARED / "cases"
"""Folder of the scripts that `test_cases.py` runs."""
