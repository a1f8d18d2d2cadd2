"""Faults of the tags that a person gives: late, wrong, partial, one class only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from deal_core.errors import ConfigError
from deal_core.structures import BoolArray, ClassList, TagMarker, TagState


@dataclass(frozen=True)
class TagFaults:
    """How given tags differ from the visible classes; the defaults are complete and right tags.

    Raises:
        ConfigError: a value is out of range.
    """

    wrong: float = 0.0
    """Probability that the tag of a class is the opposite, until the class appears or disappears."""
    late: int = 0
    """Number of frames after which a change of the visible classes is tagged."""
    partial: float = 0.0
    """Probability that a class is unknown in a scene."""
    one: bool = False
    """Whether at most one of the present classes is tagged; the other present ones are unknown."""
    co_occurring: bool = False
    """Whether pairs of classes (1 and 2, 3 and 4, ...) are nearly always in a scene together."""

    def __post_init__(self) -> None:
        for name in ("wrong", "partial"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"tag faults: expected {name} from 0 to 1, found {getattr(self, name)}")
        if not (isinstance(self.late, int) and 0 <= self.late <= 10_000):
            raise ConfigError(f"tag faults: expected late as a number of frames, 0 to 10000, found {self.late}")


def parse_tag_faults(text: str) -> TagFaults:
    """Read faults from a list like `wrong=0.05,late=3,partial=0.3,one,co-occurring`; "" is none.

    Raises:
        ConfigError: a fault does not exist, is given twice, or has no proper value.
    """
    faults: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, has_value, value = (word.strip() for word in item.partition("="))
        name = name.replace("-", "_")
        if name in faults:
            raise ConfigError(f"tag faults: '{name}' is given twice in '{text}'")
        if name in ("one", "co_occurring") and not has_value:
            faults[name] = True
        elif name in ("wrong", "partial", "late") and has_value:
            faults[name] = _number(name, value)
        else:
            raise ConfigError(
                "tag faults: expected wrong=<share>, late=<frames>, partial=<share>, one or co-occurring, "
                f"found '{item}'"
            )
    return TagFaults(**faults)


def _number(name: str, value: str) -> float | int:
    kind = int if name == "late" else float
    try:
        return kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"tag faults: expected {name} as {expected}, found '{value}'") from None


class Tagger:
    """Gives the tags of one scene, frame after frame.

    Args:
        faults: faults of the tags.
        classes: classes of the recording.
        rng: random generator of the scene's tags.
    """

    def __init__(self, faults: TagFaults, classes: ClassList, rng: np.random.Generator) -> None:
        self._faults = faults
        self._names = classes.names
        self._rng = rng
        self._unknown = rng.random(len(classes)) < faults.partial
        self._rank = rng.permutation(len(classes))
        self._waiting: deque[BoolArray] = deque(maxlen=faults.late + 1)
        self._last: BoolArray | None = None
        self._flipped = np.zeros(len(classes), bool)

    def give(self, visible: BoolArray) -> TagState:
        """Return the given tags of the next frame, in which the (K,) classes are visible."""
        self._waiting.append(visible)
        seen = self._waiting[0]
        changed = np.ones(len(seen), bool) if self._last is None else seen != self._last
        self._last = seen
        self._flipped = np.where(changed, self._rng.random(len(seen)) < self._faults.wrong, self._flipped)
        present = seen ^ self._flipped
        unknown = self._unknown.copy()
        if self._faults.one:
            # The same class for as long as it is tagged as present.
            shown = sorted(np.flatnonzero(present & ~unknown), key=lambda k: self._rank[k])
            unknown[shown[1:]] = True
        return self._state(present & ~unknown, ~present & ~unknown)

    def _state(self, present: BoolArray, absent: BoolArray) -> TagState:
        complete = bool((present | absent).all())
        return TagState(
            tuple(name for name, known in zip(self._names, present, strict=True) if known),
            tuple(name for name, known in zip(self._names, absent, strict=True) if known),
            TagMarker.COMPLETE if complete else TagMarker.PARTIAL,
        )
