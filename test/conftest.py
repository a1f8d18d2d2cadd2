"""Fixtures that several rooms share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.paths import CASES, FRAMES_VARIABLE, MOBILENET, REAL_FRAMES, WEIGHTS_VARIABLE

# Before numpy and torch load, and inherited by the processes that tests start: with a thread for each core, small
# tensors spend their time waiting for one another, the more so when several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

# No property is too slow for the load that its machine is under.
hypothesis.settings.register_profile("deal", deadline=None)
hypothesis.settings.load_profile("deal")

if TYPE_CHECKING:
    from helpers.real_frames import RealFrames


def _set_ros_domain() -> None:
    """Give each pytest-xdist worker, and all processes that its tests start, a ROS domain of its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.environ["ROS_DOMAIN_ID"] = str(int(os.environ.get("ROS_DOMAIN_ID") or 90) + worker)


_set_ros_domain()

COLOR = "/camera/camera/color/image_raw"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING, CAMERA_INFO = "std_msgs/msg/String", "sensor_msgs/msg/CameraInfo"


# What tests need and a machine may lack: the marker of the tests that need it, what they are called, and where it is.
_NEEDED = {
    "real_frames": ("real frames", f"no folder {REAL_FRAMES}; {FRAMES_VARIABLE}=DIR names another", REAL_FRAMES),
    "cases": ("cases", f"no folder {CASES}", CASES),
    "real_weights": ("real weights", f"no file {MOBILENET}; {WEIGHTS_VARIABLE}=FILE names another", MOBILENET),
}
LACKING = {marker: (name, reason) for marker, (name, reason, path) in _NEEDED.items() if not path.exists()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of real frames; skip what needs something that is not on this machine."""
    for item in items:
        if "real_frames" in getattr(item, "fixturenames", ()):
            item.add_marker("real_frames")
        for marker, (_, reason) in LACKING.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="there is no GPU on this machine"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests were left out for what, so that a green run tells what it has not seen."""
    skipped = terminalreporter.stats.get("skipped", [])
    for marker, (name, reason) in LACKING.items():
        if left_out := sum(marker in report.keywords for report in skipped):
            tests = "test" if left_out == 1 else "tests"
            terminalreporter.write_line(f"{name}: {left_out} {tests} left out: {reason}")


@dataclass(frozen=True)
class Done:
    """Output and exit code of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def deal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `deal` with these arguments in this process: to start Python anew takes longer than most commands."""
    from training.cli import main

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["deal", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder, for this process and those it starts: one of the tests' own."""
    folder = tmp_path_factory.mktemp("user_cache")
    with pytest.MonkeyPatch.context() as patch:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(usual / "matplotlib"))  # its fonts are slow
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def real_frames() -> RealFrames:
    """Up to ten real frames of one scene."""
    from helpers.real_frames import read_real_frames

    return read_real_frames(REAL_FRAMES)


@pytest.fixture(scope="session")
def real_recording(real_frames: RealFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the real frames with complete tags and ground truth; read only."""
    from deal_core.recording.writer import RecordingWriter
    from deal_core.structures import TagMarker, TagState

    path = tmp_path_factory.mktemp("recordings") / "tabletop"
    with RecordingWriter(path, real_frames.classes, real_frames.camera, session={"camera": "Asus"}) as writer:
        tagged: list[str] | None = None
        for index, (pair, mask) in enumerate(zip(real_frames.pairs, real_frames.masks, strict=True)):
            if tagged != (tagged := real_frames.visible(index)):
                writer.write_tags(pair.stamp_ns, TagState(tuple(tagged), marker=TagMarker.COMPLETE), "test")
            writer.write_pair(pair)
            writer.write_ground_truth(pair.stamp_ns, mask)
    return path


@dataclass
class Bag:
    """Messages to be written as a bag of any kind, straight through rosbags."""

    messages: list[tuple[str, str, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._store = get_typestore(Stores.ROS2_JAZZY)

    @property
    def types(self) -> Mapping[str, Any]:
        """The classes of messages by type."""
        return self._store.types

    def add(self, topic: str, kind: str, log_time: int, **fields: Any) -> None:
        message = self._store.types[kind](**fields)
        self.raw(topic, kind, log_time, bytes(self._store.serialize_cdr(message, kind)))

    def raw(self, topic: str, kind: str, log_time: int, data: bytes) -> None:
        self.messages.append((topic, kind, log_time, data))

    def header(self, stamp: int, frame_id: str) -> Any:
        time = self._store.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self._store.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)

    def image(
        self,
        topic: str,
        stamp: int,
        pixels: np.ndarray,
        encoding: str,
        *,
        frame_id: str = "optical",
        log_time: int | None = None,
        **changed: Any,
    ) -> None:
        """Add an Image; `changed` fields are written as given, right or wrong."""
        data = np.ascontiguousarray(pixels)
        fields = {
            "height": data.shape[0],
            "width": data.shape[1],
            "encoding": encoding,
            "is_bigendian": 0,
            "step": data.nbytes // max(data.shape[0], 1),
            "data": data.reshape(-1).view(np.uint8),
        }
        at = stamp if log_time is None else log_time
        self.add(topic, IMAGE, at, header=self.header(stamp, frame_id), **{**fields, **changed})

    def compressed(self, topic: str, stamp: int, form: str, data: bytes, *, frame_id: str = "optical") -> None:
        content = np.frombuffer(data, np.uint8)
        self.add(topic, COMPRESSED, stamp, header=self.header(stamp, frame_id), format=form, data=content)

    def text(self, topic: str, log_time: int, content: Mapping[str, Any] | str) -> None:
        self.add(topic, STRING, log_time, data=content if isinstance(content, str) else json.dumps(content))

    def session(self, *classes: str) -> None:
        self.text("/deal/session", 0, {"classes": [{"name": name} for name in classes]})

    def tags(self, stamp: int, *present: str, marker: str = "complete", log_time: int | None = None) -> None:
        at = stamp if log_time is None else log_time
        self.text("/deal/tags", at, {"stamp_ns": stamp, "present": present, "absent": [], "marker": marker})

    def pair(self, stamp: int, size: tuple[int, int] = (6, 8), *, depth_stamp: int | None = None) -> None:
        """Add a colour and a depth image whose pixels follow from the stamp."""
        self.image(COLOR, stamp, self.color_of(stamp, size), "rgb8")
        at = stamp if depth_stamp is None else depth_stamp
        self.image(DEPTH, at, self.depth_of(stamp, size), "16UC1")

    @staticmethod
    def color_of(stamp: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
        return np.random.default_rng(stamp).integers(0, 256, (*size, 3), np.uint8)

    @staticmethod
    def depth_of(stamp: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
        return np.random.default_rng(stamp + 1).integers(1, 5000, size, np.uint16)

    def camera_info(self, topic: str, stamp: int, fx: float, size: tuple[int, int] = (6, 8)) -> None:
        roi = self._store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        self.add(
            topic,
            CAMERA_INFO,
            stamp,
            header=self.header(stamp, "optical"),
            height=size[0],
            width=size[1],
            distortion_model="plumb_bob",
            d=np.array([0.1, 0.2, 0, 0, 0]),
            k=np.array([fx, 0, 4, 0, fx, 3, 0, 0, 1.0]),
            r=np.eye(3).reshape(-1),
            p=np.zeros(12),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def save(self, path: Path, storage: str = "mcap", compression: str = "none") -> Path:
        """Write a rosbag2 folder; `compression` is none, storage (zstd chunks), lz4 (chunks), message or file."""
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if compression != "lz4":
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        connections: dict[tuple[str, str], Any] = {}
        with writer:
            if compression == "lz4":  # recorders write it, rosbags only reads it
                from lz4.frame import compress

                writer.storage.compression, writer.storage.compressor = "lz4", compress
            for topic, kind, log_time, data in self.messages:
                if (topic, kind) not in connections:
                    connections[topic, kind] = writer.add_connection(topic, kind, typestore=self._store)
                writer.write(connections[topic, kind], log_time, data)
        return path


@pytest.fixture
def new_bag() -> Callable[[], Bag]:
    """Make an empty `Bag` to fill and save."""
    return Bag


@pytest.fixture(scope="session")
def tiny_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic recording: 4 tabletops of 3 frames, 64x48, three classes, complete tags, true masks; read only."""
    from deal_core.synthetic.recording import SyntheticConfig, write_recording

    path = tmp_path_factory.mktemp("synthetic") / "tiny"
    config = SyntheticConfig(seed=3, scenes=4, frames_per_scene=3, width=64, height=48, num_classes=3)
    write_recording(path, config)
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tiny_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_recording` as a dataset of 12 frames; read only."""
    from deal_core.dataset.extract import ExtractOptions, extract_recording

    path = tmp_path_factory.mktemp("datasets") / "tiny"
    extract_recording(tiny_recording, path, ExtractOptions())
    return path


@pytest.fixture(scope="session")
def rgbd_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a random segmenter that uses depth; read only."""
    import torch

    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    torch.manual_seed(1)
    arguments = {"encoder": "test_resnet", "inputs": "rgbd"}
    info = ModelInfo("segmenter", arguments, ClassList(("mug", "drill", "box")), (48, 64), Threshold(0.5, "argmax"))
    path = tmp_path_factory.mktemp("rgbd") / "model.safetensors"
    save_model(path, create_model("segmenter", 3, **arguments), info)
    return path
