"""Synthetic RGB-D recordings of tabletops, with an operator's tags and with masks for evaluation.

A scene is a fixed table; the camera moves around it. Every frame has complete tags, its true mask and the depth that a
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

import cv2
import numpy as np

from deal_core.errors import ConfigError, RecordingError
from deal_core.recording.writer import RecordingWriter
from deal_core.structures import (
    BoolArray,
    CameraIntrinsics,
    ClassList,
    Float32Array,
    RgbdPair,
    TagMarker,
    TagState,
    UInt8Array,
)
from deal_core.synthetic.depth_noise import StereoCamera, measure_depth
from deal_core.synthetic.render import Renderer, View
from deal_core.synthetic.scene import CATALOGUE, TabletopSize, camera_path, make_tabletop

_SCENE_GAP_NS = 5 * 10**9  # between two scenes, in which the table is set again


@dataclass(frozen=True)
class SyntheticConfig:
    """What to render. Ranges are (lowest, highest), both included.

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
        self._expect("seed", 0, 2**63)
        self._expect("scenes", 1, 1_000_000)
        self._expect("frames_per_scene", 1, 100_000)
        self._expect("width", 32, 1920)
        self._expect("height", 32, 1920)
        self._expect("num_classes", 1, most)
        self._expect("objects_per_scene", 1, 8)
        self._expect("classes_per_scene", 1, most)
        self._expect("prints_per_scene", 0, 12)
        self._expect("horizontal_fov_deg", 20.0, 90.0)
        self._expect("distance_m", 0.4, 2.0)
        self._expect("elevation_deg", 30.0, 85.0)
        self._expect("min_visible", 1e-6, 0.5)
        self._expect("frame_rate_hz", 0.1, 240.0)
        self._expect("image_noise", 0.0, 10.0)
        if self.classes_per_scene[0] > min(self.num_classes, self.objects_per_scene[0]):
            raise ConfigError(
                f"synthetic classes_per_scene: expected at most {min(self.num_classes, self.objects_per_scene[0])} "
                f"as the lowest ({self.num_classes} classes, at least {self.objects_per_scene[0]} objects), "
                f"found {self.classes_per_scene[0]}"
            )

    def _expect(self, name: str, lowest: float, highest: float) -> None:
        value = getattr(self, name)
        if isinstance(value, tuple) and not value[0] <= value[1]:
            raise ConfigError(f"synthetic {name}: expected (lowest, highest), found {value}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(lowest, int) and not isinstance(number, int):
                raise ConfigError(f"synthetic {name}: expected whole numbers, found {number!r}")
            if not lowest <= number <= highest:  # also refuses nan
                raise ConfigError(f"synthetic {name}: expected {lowest} to {highest}, found {number}")

    @property
    def classes(self) -> ClassList:
        """The classes of the recording."""
        return ClassList(tuple(kind.name for kind in CATALOGUE[: self.num_classes]))

    @property
    def camera(self) -> CameraIntrinsics:
        """The colour camera, to which the depth is aligned."""
        focal = self.width / 2 / math.tan(math.radians(self.horizontal_fov_deg) / 2)
        return CameraIntrinsics(self.width, self.height, focal, focal, (self.width - 1) / 2, (self.height - 1) / 2)

    @property
    def frames(self) -> int:
        """Number of frames in all scenes."""
        return self.scenes * self.frames_per_scene


@dataclass(frozen=True, eq=False)
class SyntheticFrame:
    """One frame with its ground truth.

    Args:
        pair: colour and depth of the camera.
        mask: (H, W) uint8 class ids, 0 background.
        tags: complete tags; classes with enough visible pixels are present.
        scene: number of the scene, from 0.
        true_depth: (H, W) float32 exact depth along the optical axis, metres.
        instances: (H, W) uint8 objects, numbered from 1 within the scene, 0 background.
        part: (H, W) bool, the parts that define the classes.
        rotation: (3, 3) from the camera's optical frame to the world, where the table is z = 0.
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


def render_scenes(config: SyntheticConfig) -> Iterator[SyntheticFrame]:
    """Yield all frames by scene, with rising stamps.

    Example:
        >>> frame = next(render_scenes(SyntheticConfig(seed=1, width=160, height=120)))
        >>> frame.pair.color.shape, frame.mask.shape
        ((120, 160, 3), (120, 160))
    """
    for scene in range(config.scenes):
        yield from _render_scene(config, scene)


def write_recording(
    path: Path, config: SyntheticConfig, frames: Iterable[SyntheticFrame] | None = None, *, overwrite: bool = False
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
    session = {"source": "deal synth", "synthetic": asdict(config)}
    with RecordingWriter(path, config.classes, config.camera, session=session, overwrite=overwrite) as writer:
        previous: tuple[int, TagState] | None = None
        for frame in frames:
            if previous != (frame.scene, frame.tags):
                writer.write_tags(frame.pair.stamp_ns, frame.tags, source=f"synthetic scene {frame.scene}")
                previous = (frame.scene, frame.tags)
            writer.write_pair(frame.pair)
            writer.write_ground_truth(frame.pair.stamp_ns, frame.mask)


def _render_scene(config: SyntheticConfig, scene: int) -> Iterator[SyntheticFrame]:
    layout = _random(config.seed, scene)
    size = TabletopSize(config.objects_per_scene, config.classes_per_scene, config.prints_per_scene)
    tabletop = make_tabletop(config.num_classes, size, layout)
    low, high = config.elevation_deg
    poses = camera_path(config.frames_per_scene, config.distance_m, (math.radians(low), math.radians(high)), layout)
    exposure = float(layout.uniform(0.85, 1.2))
    balance = layout.uniform(0.94, 1.06, 3).astype(np.float32)
    renderer = Renderer(tabletop, config.camera)
    class_of = np.array([0, *(placed.class_id for placed in tabletop.objects)], np.uint8)
    for number, pose in enumerate(poses):
        rng = _random(config.seed, scene, number)
        view = renderer.view(pose, config.stereo.baseline_m)
        mask = class_of[view.instance]
        pair = RgbdPair(
            _stamp_ns(config, scene, number),
            _expose(view, balance * np.float32(exposure * rng.uniform(0.93, 1.07)), config.image_noise, rng),
            measure_depth(view.depth, view.seen_by_second, view.view_cosine, config.stereo, rng),
        )
        yield SyntheticFrame(
            pair=pair,
            mask=mask,
            tags=_visible_tags(mask, config),
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


def _stamp_ns(config: SyntheticConfig, scene: int, number: int) -> int:
    step = round(1e9 / config.frame_rate_hz)
    # Stamps start at a fixed date, so that the same seed gives the same bytes.
    return 1_700_000_000 * 10**9 + scene * ((config.frames_per_scene - 1) * step + _SCENE_GAP_NS) + number * step


def _visible_tags(mask: UInt8Array, config: SyntheticConfig) -> TagState:
    counts = np.bincount(mask.ravel(), minlength=config.num_classes + 1)[1:]
    names = config.classes.names
    present = [name for name, count in zip(names, counts, strict=True) if count >= config.min_visible * mask.size]
    absent = [name for name in names if name not in present]
    return TagState(tuple(present), tuple(absent), TagMarker.COMPLETE)


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
