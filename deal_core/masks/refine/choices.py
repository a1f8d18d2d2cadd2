"""Names of the refinements, in a module without other imports."""

from typing import Literal

Refinement = Literal["none", "par", "crf", "walk", "regions"]
"""Refinement of class scores: pixel-adaptive, dense CRF, random walk, or regions grown in depth."""

PlaneUse = Literal["keep", "background"]
"""Use of the planes that support things: classes may lie on them, or not."""
