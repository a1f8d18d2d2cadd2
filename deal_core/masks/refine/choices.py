"""Names of the refinements, in a module without other imports."""

from typing import Literal

Refinement = Literal["none", "par", "crf", "walk", "regions"]
"""Refinement of class scores: pixel-adaptive, dense CRF, random walk, or regions grown in depth."""
