"""Taps and boxes: where a person says that a thing is, in pixels of the colour image.

frames.jsonl keeps them beside the tags of a frame, and only where there are some:

    "points": [{"class": "mug", "x": 120, "y": 80}, {"class": "mug", "x": 12, "y": 9, "is": false}]
    "boxes": [{"class": "mug", "left": 100, "top": 60, "right": 140, "bottom": 110}]
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deal_core.structures import ClassList


class Tap(NamedTuple):
    """A point on a thing of a class, or on something else.

    Attributes:
        name: name of the class.
        x: column of the pixel, from 0.
        y: row of the pixel, from 0.
        is_on: whether a thing of the class is there; False says "not this".
    """

    name: str
    x: int
    y: int
    is_on: bool = True


class Box(NamedTuple):
    """A rectangle around one thing: the columns from `left` to `right` and the rows from `top` to `bottom`.

    Attributes:
        name: name of the class.
        left: first column.
        top: first row.
        right: column behind the last one.
        bottom: row behind the last one.
    """

    name: str
    left: int
    top: int
    right: int
    bottom: int

    @property
    def has_pixels(self) -> bool:
        """Whether the box has at least one pixel, and none left of or above the image."""
        return 0 <= self.left < self.right and 0 <= self.top < self.bottom


Mark = Tap | Box
"""What a person draws in an image: a tap or a box."""


class TapLine(BaseModel):
    """A tap in a line of frames.jsonl."""

    model_config = ConfigDict(strict=True)

    name: str = Field(alias="class")
    x: int = Field(ge=0)
    y: int = Field(ge=0)
    is_on: bool = Field(default=True, alias="is")

    def tap(self) -> Tap:
        """Return the tap."""
        return Tap(self.name, self.x, self.y, self.is_on)


class BoxLine(BaseModel):
    """A box in a line of frames.jsonl."""

    model_config = ConfigDict(strict=True)

    name: str = Field(alias="class")
    left: int = Field(ge=0)
    top: int = Field(ge=0)
    right: int
    bottom: int

    @model_validator(mode="after")
    def _has_pixels(self) -> BoxLine:
        if not self.box().has_pixels:
            raise ValueError(
                f"expected left below right and top below bottom, found {self.left}, {self.right} and "
                f"{self.top}, {self.bottom}"
            )
        return self

    def box(self) -> Box:
        """Return the box."""
        return Box(self.name, self.left, self.top, self.right, self.bottom)


def marks_to_json(marks: tuple[Mark, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return the keys `points` and `boxes` of a line of frames.jsonl; a key without entries is left out."""
    points: list[dict[str, Any]] = [
        {"class": mark.name, "x": mark.x, "y": mark.y, **({} if mark.is_on else {"is": False})}
        for mark in marks
        if isinstance(mark, Tap)
    ]
    boxes: list[dict[str, Any]] = [
        {"class": mark.name, **{key: getattr(mark, key) for key in ("left", "top", "right", "bottom")}}
        for mark in marks
        if isinstance(mark, Box)
    ]
    return {key: found for key, found in (("points", points), ("boxes", boxes)) if found}


def check_marks(marks: tuple[Mark, ...], classes: ClassList) -> None:
    """Raise `UsageError` if a mark is of a class that the list does not have."""
    for mark in marks:
        classes.id_of(mark.name)
