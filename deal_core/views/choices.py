"""Names of the ways to use other views."""

from typing import Literal

Views = Literal["near", "recording"]
"""Views that a frame's scores are fused with: those near in time, or all of the recording up to a pause."""
