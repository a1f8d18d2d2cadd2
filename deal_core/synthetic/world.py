"""What every synthetic world tells the code that renders and records it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from deal_core.errors import ConfigError
from deal_core.structures import CameraIntrinsics, ClassList
from deal_core.synthetic.bodies import ObjectClass
from deal_core.synthetic.depth_noise import MatchFailures, StereoCamera
from deal_core.synthetic.scene import CameraPose, Scene
from deal_core.synthetic.tag_faults import TagFaults


class World(ABC):
    """Base of the configurations of synthetic worlds; a subclass is a dataclass that has these fields."""

    seed: int
    scenes: int
    frames_per_scene: int
    width: int
    height: int
    num_classes: int
    horizontal_fov_deg: float
    min_visible: float
    frame_rate_hz: float
    image_noise: float
    stereo: StereoCamera

    @property
    @abstractmethod
    def catalogue(self) -> tuple[ObjectClass, ...]:
        """All classes of this world in order; a recording has the first `num_classes`."""

    @abstractmethod
    def make_scene(self, rng: np.random.Generator) -> tuple[Scene, list[CameraPose]]:
        """Return a random scene and a camera pose for each of its frames."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return all settings as plain values, for the session of a recording."""

    @property
    def classes(self) -> ClassList:
        """The classes of the recording."""
        return ClassList(tuple(kind.name for kind in self.catalogue[: self.num_classes]))

    @property
    def camera(self) -> CameraIntrinsics:
        """The colour camera, to which the depth is aligned."""
        focal = self.width / 2 / math.tan(math.radians(self.horizontal_fov_deg) / 2)
        return CameraIntrinsics(self.width, self.height, focal, focal, (self.width - 1) / 2, (self.height - 1) / 2)

    @property
    def frames(self) -> int:
        """Number of frames in all scenes."""
        return self.scenes * self.frames_per_scene

    @property
    def match_failures(self) -> MatchFailures | None:
        """Where the stereo camera finds no match, besides `stereo`; None is nowhere."""
        return None

    @property
    def given_tags(self) -> TagFaults:
        """How the given tags differ from the visible classes."""
        return TagFaults()

    @property
    def writes_poses(self) -> bool:
        """Whether a recording has the true poses of the camera."""
        return False

    def _expect_sizes(self) -> None:
        """Check the fields of every world.

        Raises:
            ConfigError: a value is out of range; the message gives the range and the value.
        """
        self._expect("seed", 0, 2**63)
        self._expect("scenes", 1, 1_000_000)
        self._expect("frames_per_scene", 1, 100_000)
        self._expect("width", 32, 1920)
        self._expect("height", 32, 1920)
        self._expect("num_classes", 1, len(self.catalogue))
        self._expect("horizontal_fov_deg", 20.0, 90.0)
        self._expect("min_visible", 1e-6, 0.5)
        self._expect("frame_rate_hz", 0.1, 240.0)
        self._expect("image_noise", 0.0, 10.0)

    def _expect(self, name: str, lowest: float, highest: float) -> None:
        value = getattr(self, name)
        if isinstance(value, tuple) and not value[0] <= value[1]:
            raise ConfigError(f"synthetic {name}: expected (lowest, highest), found {value}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(lowest, int) and not isinstance(number, int):
                raise ConfigError(f"synthetic {name}: expected whole numbers, found {number!r}")
            if not lowest <= number <= highest:  # also refuses nan
                raise ConfigError(f"synthetic {name}: expected {lowest} to {highest}, found {number}")
