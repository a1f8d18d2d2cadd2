"""The names of refinements; importing them loads nothing else."""

from typing import Literal

Refinement = Literal["none", "par", "crf", "walk", "regions"]
"""Refinement of class scores: pixel-adaptive, dense CRF, random walk, or regions grown in depth."""
