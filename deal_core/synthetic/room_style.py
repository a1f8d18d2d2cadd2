"""The looks of rooms: shapes, colours, light and the way of the camera, drawn apart for development and final tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from deal_core.synthetic.bodies import TABLETOP_BODIES, BodyStyle, shade
from deal_core.synthetic.scene import Color, Material, Pattern


class Split(str, Enum):
    """The purpose of a recording of rooms; each has looks of its own."""

    DEV = "dev"
    """For choosing methods and settings."""
    FINAL = "final"
    """For the final figures: nothing is chosen with it."""


Stock = tuple[tuple[Pattern, Color, Color, float], ...]
"""Materials from which one is drawn: pattern, two sRGB colours, period in metres."""


@dataclass(frozen=True)
class RoomStyle:
    """The looks of the rooms of a split.

    Args:
        bodies: stock of bodies.
        hues: saturated sRGB colours of the telling parts.
        partners: distances along `hues` between the two colours of a part.
        pale: second colour of some parts.
        dark: second colour of other parts.
        boards: materials of tables, shelves and floors.
        walls: materials of walls.
        cloths: materials of beds and heaps.
        table_level: smallest and largest height of tables, metres.
        board_gap: smallest and largest distance between the boards of a shelf, metres.
        swing: how far the camera turns about what it looks at, to each side, radians.
        nearness: factor on the distances of the camera.
        steepness: added to the angle of view above the horizontal, radians.
        light_height: smallest and largest angle of the light above the horizontal, radians.
        light: smallest and largest strength of the direct light.
        ambient: smallest and largest strength of the light from all directions.
        warmth: smallest and largest red shift of the light.
    """

    bodies: BodyStyle
    hues: tuple[Color, ...]
    partners: tuple[int, int]
    pale: Color
    dark: Color
    boards: Stock
    walls: Stock
    cloths: Stock
    table_level: tuple[float, float]
    board_gap: tuple[float, float]
    swing: float
    nearness: float
    steepness: float
    light_height: tuple[float, float]
    light: tuple[float, float]
    ambient: tuple[float, float]
    warmth: tuple[float, float]

    def part_material(self, material: Material, class_id: int, rng: np.random.Generator) -> Material:
        """Return the material of one object's telling part: the pattern of its class in one of four pairs of colours.

        One colour is that of the class, the other varies. Parts of other classes and look-alikes have the same colours,
        so the colour alone does not tell the class.
        """
        own = self.hues[(class_id - 1) % len(self.hues)]
        near, far = (self.hues[(class_id - 1 + step) % len(self.hues)] for step in self.partners)
        partner = (self.pale, self.dark, near, far)[int(rng.integers(4))]
        first, second = (own, partner) if rng.random() < 0.5 else (partner, own)
        return replace(material, first=shade(first, rng), second=shade(second, rng))

    def hue(self, rng: np.random.Generator) -> Color:
        """Return a shade of any of the colours of parts."""
        return shade(self.hues[int(rng.integers(len(self.hues)))], rng)


def draw_material(stock: Stock, rng: np.random.Generator) -> Material:
    """Return a random material of a stock."""
    pattern, first, second, period = stock[int(rng.integers(len(stock)))]
    angle = rng.uniform(0, np.pi)
    axis = (float(np.cos(angle)), float(np.sin(angle)), 0.0)
    return Material(pattern, shade(first, rng), shade(second, rng), period * float(rng.uniform(0.8, 1.3)), axis)


_DEV = RoomStyle(
    bodies=TABLETOP_BODIES,
    hues=(
        (0.86, 0.08, 0.08), (0.98, 0.82, 0.05), (0.10, 0.62, 0.15), (0.08, 0.25, 0.85),
        (0.90, 0.08, 0.60), (0.05, 0.75, 0.82), (0.98, 0.45, 0.03), (0.45, 0.10, 0.72),
    ),
    partners=(2, 5),
    pale=(0.95, 0.95, 0.93),
    dark=(0.05, 0.05, 0.06),
    boards=(
        (Pattern.WOOD, (0.72, 0.55, 0.38), (0.58, 0.41, 0.26), 0.06),
        (Pattern.WOOD, (0.45, 0.31, 0.21), (0.34, 0.22, 0.15), 0.05),
        (Pattern.WOOD, (0.86, 0.77, 0.63), (0.77, 0.66, 0.51), 0.08),
        (Pattern.MARBLE, (0.80, 0.79, 0.77), (0.66, 0.66, 0.66), 0.20),
        (Pattern.WEAVE, (0.62, 0.66, 0.68), (0.74, 0.76, 0.75), 0.035),
        (Pattern.SOLID, (0.55, 0.60, 0.57), (0.5, 0.5, 0.5), 0.1),
    ),
    walls=(
        (Pattern.SOLID, (0.85, 0.84, 0.80), (0.8, 0.8, 0.8), 0.1),
        (Pattern.STRIPES, (0.72, 0.74, 0.70), (0.66, 0.68, 0.66), 0.22),
        (Pattern.MARBLE, (0.62, 0.66, 0.72), (0.56, 0.60, 0.66), 0.30),
        (Pattern.SOLID, (0.60, 0.55, 0.50), (0.5, 0.5, 0.5), 0.1),
    ),
    cloths=(
        (Pattern.WEAVE, (0.50, 0.40, 0.37), (0.60, 0.52, 0.47), 0.05),
        (Pattern.MARBLE, (0.45, 0.50, 0.58), (0.62, 0.66, 0.70), 0.12),
        (Pattern.STRIPES, (0.75, 0.72, 0.66), (0.60, 0.62, 0.64), 0.12),
        (Pattern.SOLID, (0.48, 0.52, 0.45), (0.5, 0.5, 0.5), 0.1),
    ),
    table_level=(0.42, 0.95),
    board_gap=(0.34, 0.40),
    swing=np.radians(35),
    nearness=1.0,
    steepness=0.0,
    light_height=(np.radians(40), np.radians(65)),
    light=(0.55, 0.85),
    ambient=(0.40, 0.55),
    warmth=(-0.08, 0.08),
)  # fmt: skip
_FINAL = RoomStyle(
    bodies=BodyStyle(
        profiles=(
            ((0.70, 0.0), (1.0, 0.35), (0.62, 1.0)),
            ((1.0, 0.0), (0.74, 0.45), (0.86, 1.0)),
            ((0.92, 0.0), (1.0, 0.2), (1.0, 0.8), (0.90, 1.0)),
            ((1.0, 0.0), (1.0, 0.3), (0.78, 0.34), (0.78, 1.0)),
            ((0.66, 0.0), (0.92, 0.6), (1.0, 1.0)),
        ),
        sides=(5, 8, 40),
        height=(0.06, 0.14),
        radius=(0.038, 0.064),
        colors=(
            (0.88, 0.86, 0.84), (0.55, 0.53, 0.50), (0.28, 0.29, 0.33), (0.64, 0.50, 0.40), (0.40, 0.30, 0.28),
            (0.40, 0.50, 0.54), (0.58, 0.60, 0.66), (0.50, 0.52, 0.40), (0.72, 0.70, 0.58), (0.54, 0.42, 0.50),
            (0.80, 0.70, 0.66), (0.36, 0.42, 0.44),
        ),
    ),
    hues=(
        (0.95, 0.30, 0.22), (0.60, 0.80, 0.08), (0.06, 0.55, 0.45), (0.20, 0.45, 0.95), (0.62, 0.22, 0.85),
        (0.98, 0.25, 0.45), (0.90, 0.62, 0.10),
    ),
    partners=(3, 1),
    pale=(0.92, 0.88, 0.78),
    dark=(0.12, 0.10, 0.18),
    boards=(
        (Pattern.WOOD, (0.64, 0.47, 0.36), (0.52, 0.36, 0.27), 0.045),
        (Pattern.WOOD, (0.80, 0.74, 0.66), (0.70, 0.63, 0.55), 0.11),
        (Pattern.CHECKS, (0.74, 0.74, 0.72), (0.62, 0.60, 0.58), 0.40),
        (Pattern.MARBLE, (0.42, 0.42, 0.45), (0.32, 0.32, 0.36), 0.17),
        (Pattern.SOLID, (0.74, 0.70, 0.62), (0.5, 0.5, 0.5), 0.1),
    ),
    walls=(
        (Pattern.SOLID, (0.78, 0.80, 0.84), (0.8, 0.8, 0.8), 0.1),
        (Pattern.CHECKS, (0.80, 0.76, 0.70), (0.74, 0.71, 0.66), 0.30),
        (Pattern.MARBLE, (0.70, 0.60, 0.56), (0.64, 0.54, 0.50), 0.25),
    ),
    cloths=(
        (Pattern.CHECKS, (0.55, 0.50, 0.52), (0.66, 0.62, 0.62), 0.10),
        (Pattern.MARBLE, (0.58, 0.50, 0.44), (0.44, 0.38, 0.34), 0.16),
        (Pattern.STRIPES, (0.40, 0.46, 0.44), (0.54, 0.58, 0.56), 0.07),
    ),
    table_level=(0.55, 1.10),
    board_gap=(0.37, 0.46),
    swing=np.radians(48),
    nearness=1.08,
    steepness=np.radians(6),
    light_height=(np.radians(50), np.radians(80)),
    light=(0.40, 0.70),
    ambient=(0.48, 0.65),
    warmth=(-0.02, 0.16),
)  # fmt: skip

ROOM_STYLES: Mapping[Split, RoomStyle] = {Split.DEV: _DEV, Split.FINAL: _FINAL}
