"""Synthetic RGB-D recordings, with an operator's tags and with masks for evaluation.

A scene is a fixed table or room; the camera moves in it. Every frame has tags, its true mask and the depth that a
stereo camera would measure. All random numbers come from the seed: a frame depends on the configuration, the number of
its scene and its own number, but not on the frames before.

In the recording, a new tags message, and so a new segment, begins with each scene and with each change of the visible
classes. So the frames of one scene may be in several segments: for a fair test, render another recording with another
seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deal_core.errors import ConfigError, RecordingError
from deal_core.recording.writer import RecordingWriter
from deal_core.structures import BoolArray, Float32Array, RgbdPair, TagState, UInt8Array, UInt16Array
from deal_core.synthetic.bodies import CATALOGUE, ObjectClass
from deal_core.synthetic.depth_noise import StereoCamera, find_match_failures, measure_depth
from deal_core.synthetic.render import Renderer, View
from deal_core.synthetic.scene import CameraPose
from deal_core.synthetic.tabletop import Tabletop, TabletopSize, camera_path, make_tabletop
from deal_core.synthetic.tag_faults import Tagger
from deal_core.synthetic.world import World

_SCENE_GAP_NS = 5 * 10**9  # between two scenes, in which the scene is set again
_TAGS = (0, 0)  # the place of a scene's tags among its random generators


@dataclass(frozen=True)
class SyntheticConfig(World):
    """The world of tabletops. Ranges are (lowest, highest), both included.

    Raises:
        ConfigError: a value is out of range; the message gives the range and the value.
    """

    seed: int = 0
    """Scenes of different seeds have nothing in common."""
    scenes: int = 40
    """Number of tabletops."""
    frames_per_scene: int = 10
    """Number of views of each scene."""
    width: int = 320
    """Pixels, 32 to 1920."""
    height: int = 240
    """Pixels, 32 to 1920."""
    num_classes: int = 6
    """Number of classes, the first ones of the catalogue, 1 to 12."""
    objects_per_scene: tuple[int, int] = (2, 4)
    """Number of objects on a table."""
    classes_per_scene: tuple[int, int] = (1, 3)
    """Number of different classes on a table."""
    prints_per_scene: tuple[int, int] = (1, 3)
    """Number of flat printed pictures on a table: edges of colour without an edge of depth."""
    horizontal_fov_deg: float = 38.0
    """The colour camera's horizontal angle of view, 20 to 90."""
    distance_m: tuple[float, float] = (0.60, 0.80)
    """Distance from the camera to the middle of the table."""
    elevation_deg: tuple[float, float] = (35.0, 60.0)
    """Angle of view above the table, 30 to 85; a smaller angle gives the table a larger slope in depth."""
    min_visible: float = 0.004
    """Smallest share of the image for a class to be tagged."""
    frame_rate_hz: float = 5.0
    """Frame rate within a scene."""
    image_noise: float = 1.0
    """Strength of the colour sensor's noise; 0 is no noise, 1 that of a small sensor indoors."""
    stereo: StereoCamera = field(default_factory=StereoCamera)
    """The depth camera."""

    def __post_init__(self) -> None:
        most = len(CATALOGUE)
        self._expect_sizes()
        self._expect("objects_per_scene", 1, 8)
        self._expect("classes_per_scene", 1, most)
        self._expect("prints_per_scene", 0, 12)
        self._expect("distance_m", 0.4, 2.0)
        self._expect("elevation_deg", 30.0, 85.0)
        if self.classes_per_scene[0] > min(self.num_classes, self.objects_per_scene[0]):
            raise ConfigError(
                f"synthetic classes_per_scene: expected at most {min(self.num_classes, self.objects_per_scene[0])} "
                f"as the lowest ({self.num_classes} classes, at least {self.objects_per_scene[0]} objects), "
                f"found {self.classes_per_scene[0]}"
            )

    @property
    def catalogue(self) -> tuple[ObjectClass, ...]:
        """All classes in order."""
        return CATALOGUE

    def facts(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return asdict(self)

    def make_scene(self, rng: np.random.Generator) -> tuple[Tabletop, list[CameraPose]]:
        """Return a random tabletop and a camera pose for each of its frames."""
        size = TabletopSize(self.objects_per_scene, self.classes_per_scene, self.prints_per_scene)
        tabletop = make_tabletop(self.num_classes, size, rng)
        low, high = (math.radians(angle) for angle in self.elevation_deg)
        return tabletop, camera_path(self.frames_per_scene, self.distance_m, (low, high), rng)


@dataclass(frozen=True, eq=False)
class SyntheticFrame:
    """One frame with its ground truth.

    Args:
        pair: colour and depth of the camera.
        mask: (H, W) uint8 class ids, 0 background.
        tags: tags as the operator gives them; without faults, classes with enough visible pixels are present.
        scene: number of the scene, from 0.
        true_depth: (H, W) float32 exact depth along the optical axis, metres.
        instances: (H, W) uint8 objects, numbered from 1 within the scene, 0 background.
        part: (H, W) bool, the parts that define the classes.
        rotation: (3, 3) from the camera's optical frame to the world, where the table or floor is z = 0.
        position: (3,) position of the camera in the world, metres.
    """

    pair: RgbdPair
    mask: UInt8Array
    tags: TagState
    scene: int
    true_depth: Float32Array
    instances: UInt8Array
    part: BoolArray
    rotation: Float32Array
    position: Float32Array


def render_scenes(config: World) -> Iterator[SyntheticFrame]:
    """Yield all frames by scene, with rising stamps.

    Example:
        >>> frame = next(render_scenes(SyntheticConfig(seed=1, width=160, height=120)))
        >>> frame.pair.color.shape, frame.mask.shape
        ((120, 160, 3), (120, 160))
    """
    for scene in range(config.scenes):
        yield from _render_scene(config, scene)


def write_recording(
    path: Path, config: World, frames: Iterable[SyntheticFrame] | None = None, *, overwrite: bool = False
) -> None:
    """Write a synthetic recording with its true masks, in the form of the recorder.

    Args:
        path: folder of the recording.
        config: what to render.
        frames: frames of `config`, for callers that show progress; rendered here if None.
        overwrite: replace a recording at `path` when the new one is complete.

    Raises:
        RecordingError: `path` exists and must not be replaced, is not a recording, or cannot be written.
    """
    frames = render_scenes(config) if frames is None else frames
    if overwrite and path.exists() and not (path / "metadata.yaml").is_file():
        raise RecordingError(
            f"{path} exists and is not a recording (it has no metadata.yaml), so it is not overwritten: "
            "choose another name or remove it yourself"
        )
    session = {"source": "deal synth", "synthetic": config.facts()}
    with RecordingWriter(path, config.classes, config.camera, session=session, overwrite=overwrite) as writer:
        previous: tuple[int, TagState] | None = None
        for frame in frames:
            if previous != (frame.scene, frame.tags):
                writer.write_tags(frame.pair.stamp_ns, frame.tags, source=f"synthetic scene {frame.scene}")
                previous = (frame.scene, frame.tags)
            writer.write_pair(frame.pair)
            writer.write_ground_truth(frame.pair.stamp_ns, frame.mask)
            if config.writes_poses:
                writer.write_true_pose(frame.pair.stamp_ns, frame.rotation, frame.position)


def _render_scene(config: World, scene: int) -> Iterator[SyntheticFrame]:
    layout = _random(config.seed, scene)
    contents, poses = config.make_scene(layout)
    exposure = float(layout.uniform(0.85, 1.2))
    balance = layout.uniform(0.94, 1.06, 3).astype(np.float32)
    renderer = Renderer(contents, config.camera)
    class_of = np.array([0, *(placed.class_id for placed in contents.objects)], np.uint8)
    tagger = Tagger(config.given_tags, config.classes, _random(config.seed, scene, *_TAGS))
    for number, pose in enumerate(poses):
        rng = _random(config.seed, scene, number)
        view = renderer.view(pose, config.stereo.baseline_m)
        mask = class_of[view.instance]
        pair = RgbdPair(
            _stamp_ns(config, scene, number),
            _expose(view, balance * np.float32(exposure * rng.uniform(0.93, 1.07)), config.image_noise, rng),
            _measure(view, config, rng),
        )
        yield SyntheticFrame(
            pair=pair,
            mask=mask,
            tags=tagger.give(_visible(mask, config)),
            scene=scene,
            true_depth=view.depth,
            instances=view.instance,
            part=view.part,
            rotation=pose.rotation,
            position=pose.position,
        )


def _random(seed: int, *place: int) -> np.random.Generator:
    """Return the random generator of a scene, or of a frame in it, independent of all others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def _stamp_ns(config: World, scene: int, number: int) -> int:
    step = round(1e9 / config.frame_rate_hz)
    # Stamps start at a fixed date, so that the same seed gives the same bytes.
    return 1_700_000_000 * 10**9 + scene * ((config.frames_per_scene - 1) * step + _SCENE_GAP_NS) + number * step


def _visible(mask: UInt8Array, config: World) -> BoolArray:
    """Return which of the K classes have enough visible pixels."""
    counts = np.bincount(mask.ravel(), minlength=config.num_classes + 1)[1:]
    return np.asarray(counts >= config.min_visible * mask.size)


def _measure(view: View, config: World, rng: np.random.Generator) -> UInt16Array:
    matched = view.seen_by_second
    if config.match_failures is not None:
        matched = matched & ~find_match_failures(view.depth, view.match_loss, config.match_failures, rng)
    return measure_depth(view.depth, matched, view.view_cosine, config.stereo, rng)


def _expose(view: View, gain: Float32Array, noise: float, rng: np.random.Generator) -> UInt8Array:
    """Return the image of the colour sensor: exposure, white balance, darker corners, noise, sRGB's curve."""
    height, width = view.depth.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    light = view.radiance * gain * (1 - np.float32(0.12) * (x * x + y * y))[..., None]
    if noise > 0:
        # Photon noise, whose variance grows with the light, and read-out noise.
        sigma = np.float32(noise) * np.sqrt(np.float32(4e-4) * light + np.float32(1.6e-5))
        light = light + sigma * rng.standard_normal(light.shape, dtype=np.float32)
    light = np.clip(cv2.GaussianBlur(light, (3, 3), 0.45), 0, 1)
    return cv2.convertScaleAbs(cv2.pow(light, 1 / 2.2), alpha=255)
