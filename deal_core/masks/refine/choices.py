"""Names of the refinements, in a module without other imports."""

from typing import Literal

Refinement = Literal["none", "par", "crf", "walk", "regions", "auto"]
"""Refinement of class scores: pixel-adaptive, dense CRF, random walk, or regions of depth; auto: regions where there is depth."""

PlaneUse = Literal["keep", "background"]
"""Use of the planes that support things: classes may lie on them, or not."""
