"""The world of rooms: harder than the tabletops, with each difficulty selectable alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from deal_core.errors import ConfigError, nearest_hint
from deal_core.synthetic.bodies import CATALOGUE, ObjectClass
from deal_core.synthetic.depth_noise import MatchFailures, StereoCamera
from deal_core.synthetic.flat_things import FLAT_CATALOGUE
from deal_core.synthetic.room import Difficulty, Room, RoomPlan, make_room, sweep
from deal_core.synthetic.room_style import ROOM_STYLES, Split
from deal_core.synthetic.scene import CameraPose
from deal_core.synthetic.tag_faults import TagFaults
from deal_core.synthetic.world import World


@dataclass(frozen=True)
class RoomsConfig(World):
    """The world of rooms.

    A camera goes along furniture: tables of several heights, shelves, the floor, beds and heaps. Without difficulties,
    a room is one table with a few separate things. A difficulty that is chosen alone is in every room; of several,
    `no-plane` is in half of the rooms and `small` in a third.

    Raises:
        ConfigError: a value is out of range; the message gives the range and the value.
    """

    seed: int = 0
    """Rooms of different seeds have nothing in common."""
    scenes: int = 24
    """Number of rooms."""
    frames_per_scene: int = 10
    """Number of views of each room."""
    width: int = 320
    """Pixels, 32 to 1920."""
    height: int = 240
    """Pixels, 32 to 1920."""
    num_classes: int = 6
    """Number of classes, the first ones of the catalogue, 1 to 12."""
    difficulties: tuple[Difficulty, ...] = tuple(Difficulty)
    """What makes the rooms hard."""
    split: Split = Split.DEV
    """Which looks the rooms have: those for development, or those for the final figures."""
    tag_faults: TagFaults = field(default_factory=TagFaults)
    """How the given tags differ from the visible classes."""
    horizontal_fov_deg: float = 58.0
    """The colour camera's horizontal angle of view, 20 to 90."""
    min_visible: float = 0.002
    """Smallest share of the image for a class to be tagged."""
    frame_rate_hz: float = 5.0
    """Frame rate within a room."""
    image_noise: float = 1.0
    """Strength of the colour sensor's noise; 0 is no noise, 1 that of a small sensor indoors."""
    stereo: StereoCamera = field(default_factory=StereoCamera)
    """The depth camera."""

    def __post_init__(self) -> None:
        if len(set(self.difficulties)) != len(self.difficulties):
            found = ", ".join(difficulty.value for difficulty in self.difficulties)
            raise ConfigError(f"rooms difficulties: expected each at most once, found {found}")
        self._expect_sizes()

    @property
    def catalogue(self) -> tuple[ObjectClass, ...]:
        """All classes in order; with the difficulty `flat`, every third is one of flat things."""
        if Difficulty.FLAT not in self.difficulties:
            return CATALOGUE
        upright = iter(CATALOGUE)
        return tuple(FLAT_CATALOGUE[n // 3] if n % 3 == 2 else next(upright) for n in range(len(CATALOGUE)))

    @property
    def given_tags(self) -> TagFaults:
        """How the given tags differ from the visible classes."""
        return self.tag_faults

    @property
    def match_failures(self) -> MatchFailures | None:
        """Where the stereo camera finds no match, besides `stereo`."""
        return MatchFailures() if Difficulty.HOLES in self.difficulties else None

    @property
    def writes_poses(self) -> bool:
        """Whether a recording has the true poses of the camera."""
        return True

    def facts(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return {"world": "rooms", **asdict(self)}

    def make_scene(self, rng: np.random.Generator) -> tuple[Room, list[CameraPose]]:
        """Return a random room and a camera pose for each of its frames."""
        plan = RoomPlan(
            self.catalogue[: self.num_classes],
            frozenset(self.difficulties),
            self.tag_faults.co_occurring,
            ROOM_STYLES[self.split],
        )
        # The splits have generators of their own: a room for development has no twin with other looks.
        rng = np.random.default_rng([int(rng.integers(2**62)), list(Split).index(self.split)])
        room = make_room(plan, rng)
        return room, sweep(room, plan, self.frames_per_scene, rng)


def parse_difficulties(text: str) -> tuple[Difficulty, ...]:
    """Read difficulties from a list like `touching,clutter`; "all" is all of them, "none" is none.

    Raises:
        ConfigError: a difficulty does not exist, or is given twice.
    """
    if text.strip() in ("all", "none"):
        return tuple(Difficulty) if text.strip() == "all" else ()
    return tuple(_difficulty(word.strip()) for word in text.split(","))


def _difficulty(word: str) -> Difficulty:
    names: Iterable[str] = [difficulty.value for difficulty in Difficulty]
    if word not in names:
        known, hint = ", ".join(names), nearest_hint(word, names)
        raise ConfigError(f"difficulty '{word}' does not exist: expected all, none, or some of {known}.{hint}")
    return Difficulty(word)
