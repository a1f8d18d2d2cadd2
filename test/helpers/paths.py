"""Where the project's own folders and the shared real frames lie."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HELPERS = Path(__file__).parent
CONFIG = PROJECT / "config"
SHARED = PROJECT.parent / "shared"
MOBILENET = SHARED / "weights" / "mobilenetv2_100.safetensors"
