"""Recording straight from a RealSense, with the SDK's own software device in the camera's place."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="pyrealsense2 has no wheel for this machine", exc_type=ImportError)

from helpers.software_camera import PERIOD_MS, START_MS, SoftwareCamera  # noqa: E402

from deal_core.dataset.check import check_recording  # noqa: E402
from deal_core.dataset.dataset import Dataset  # noqa: E402
from deal_core.dataset.extract import ExtractOptions, extract_recording  # noqa: E402
from deal_core.errors import RecordingError, UsageError  # noqa: E402
from deal_core.recorder.collect import Collected, collect_pairs  # noqa: E402
from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings  # noqa: E402
from deal_core.recorder.realsense import RealSense, StreamRequest  # noqa: E402
from deal_core.recording.image_messages import MessageDecoder  # noqa: E402
from deal_core.recording.reader import open_recording  # noqa: E402
from deal_core.recording.tags import read_session  # noqa: E402
from deal_core.structures import CameraIntrinsics, ClassList, TagState  # noqa: E402

CLASSES = ClassList(("mug", "kettle"))
REQUEST = StreamRequest(64, 48, 30)
RNG_SEED = 5


def images(number: int, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Random colour, and random depth with holes."""
    random = np.random.default_rng((RNG_SEED, number))
    depth = random.integers(300, 4000, size, np.uint16)
    depth[random.random(size) < 0.2] = 0
    return random.integers(0, 256, (*size, 3), np.uint8), depth


def recorder(source: RealSense) -> PairRecorder:
    settings = RecorderSettings(CLASSES, rate_hz=0, planned_minutes=0, session={"tool": "test", **source.facts})
    return PairRecorder(settings, TagState(("mug",)))


def collect(camera: SoftwareCamera, path: Path, numbers: Iterable[int], request: StreamRequest = REQUEST) -> Collected:
    """Record pairs of these frame numbers, each sent when the one before was taken; then the camera is silent."""
    with RealSense(camera.device, request, silence_s=1.0) as source:
        # The SDK hands the first two images out alone, as it does not know that there will be two.
        for number in (1, 2):
            camera.give(number, *images(number))
        rest = iter(numbers)

        def give_next() -> None:
            if (number := next(rest, None)) is not None:
                camera.give(number, *images(number))

        return collect_pairs(source, lambda: recorder(source), path, on_pair=give_next)


def recorded(path: Path, folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Extract a recording and return colour and depth by the number of the frame."""
    extract_recording(path, folder, ExtractOptions())
    found = {}
    dataset = Dataset.open(folder)
    for frame in dataset.frames:
        number = round((frame.stamp_ns / 1e6 - START_MS) / PERIOD_MS)
        color = cv2.cvtColor(cv2.imread(str(frame.color)), cv2.COLOR_BGR2RGB)
        found[number] = (color, cv2.imread(str(frame.depth), cv2.IMREAD_UNCHANGED))
    return found


def test_what_was_given_is_recorded_bit_for_bit_until_the_camera_falls_silent(tmp_path: Path) -> None:
    done = collect(SoftwareCamera(), tmp_path / "kitchen", range(3, 21))
    counts = done.summary.counts
    assert "has sent no image for" in done.failure and "unplugged" in done.failure
    assert (counts.written, counts.dropped, done.summary.loss, done.offset_ms) == (20, 0, 0, 0)
    report = check_recording(tmp_path / "kitchen")
    assert (report.pairs, report.frames, report.errors, report.unpaired) == (20, 20, [], {})
    found = recorded(tmp_path / "kitchen", tmp_path / "data")
    assert sorted(found) == list(range(1, 21))
    for number, (color, depth) in found.items():
        given_color, given_depth = images(number)
        np.testing.assert_array_equal(color, given_color)
        np.testing.assert_array_equal(depth, given_depth)


@pytest.mark.parametrize("on_for_ms", [1000, 100_000, 3_600_000])
@pytest.mark.parametrize("late_ms", [0, 5, -12])
def test_a_camera_that_has_not_this_computers_time_gives_every_pair(on_for_ms: float, late_ms: float) -> None:
    camera, count = SoftwareCamera(domain=rs.timestamp_domain.hardware_clock), 20
    calls = itertools.count()

    def give_next() -> bool:
        number, is_other = divmod(next(calls), 2)  # one pair while its two images are taken, so that none has to wait
        if not is_other and 0 < number <= count:
            camera.give_color(number, images(number)[0], on_for_ms + number * PERIOD_MS)
            camera.give_depth(number, images(number)[1], on_for_ms + number * PERIOD_MS + late_ms)
        return number > count

    begin_ns = time.time_ns()
    with RealSense(camera.device, REQUEST) as source:
        found = list(source.frames(give_next))
    assert len(found) == count
    for number, frame in enumerate(found, start=1):
        np.testing.assert_array_equal(frame.color.pixels(), images(number)[0])
        np.testing.assert_array_equal(frame.depth.pixels(), images(number)[1])
        assert frame.dropped == 0 and frame.offset_ms == pytest.approx(late_ms)
    stamps = np.array([frame.color.stamp_ns for frame in found])
    np.testing.assert_allclose(np.diff(stamps) / 1e6, PERIOD_MS, atol=0.01)
    assert 0 <= stamps[0] - begin_ns < 60e9


def give_until_it_fails(camera: SoftwareCamera, *, depth_ms: float | None) -> str:
    """Send images, depth so much after colour, until the source raises; return what it says."""
    numbers = iter(range(1, 100_000))
    with RealSense(camera.device, REQUEST, silence_s=0.3) as source:

        def give_next() -> bool:
            number = next(numbers)
            camera.give_color(number, images(number)[0], 1000 + number * PERIOD_MS)
            if depth_ms is not None:
                camera.give_depth(number, images(number)[1], 1000 + number * PERIOD_MS + depth_ms)
            return False

        with pytest.raises(RecordingError) as caught:
            next(source.frames(give_next))
    return str(caught.value)


def test_why_images_make_no_pairs_is_said() -> None:
    clock = rs.timestamp_domain
    two_clocks = SoftwareCamera(domain=clock.hardware_clock, depth_domain=clock.global_time)
    said = give_until_it_fails(two_clocks, depth_ms=START_MS)
    assert "colour uses the clock hardware_clock, depth the clock global_time" in said and "Global Time Enabled" in said
    said = give_until_it_fails(SoftwareCamera(domain=clock.hardware_clock), depth_ms=70_000)
    assert "gives no pairs: colour and depth are" in said and "expected at most 17 ms" in said
    assert "sends colour, but no depth" in give_until_it_fails(SoftwareCamera(), depth_ms=None)


def test_the_recording_says_with_what_it_was_made(tmp_path: Path) -> None:
    collect(SoftwareCamera(), tmp_path / "kitchen", range(3, 5))
    with open_recording(tmp_path / "kitchen") as recording:
        facts = read_session(recording, MessageDecoder()).facts
    assert facts["device"]["name"] == "Software D435" and facts["device"]["serial_number"] == "123"
    assert facts["device"]["firmware_version"] == "5.16.0.1"
    assert (facts["depth_scale_m"], facts["filters"], facts["clock"]) == (0.001, [], "global_time")
    assert facts["profiles"] == {"color": "64x48 at 30, rgb8", "depth": "64x48 at 30, z16"}
    extract_recording(tmp_path / "kitchen", tmp_path / "data", ExtractOptions())
    camera = Dataset.open(tmp_path / "data").camera("kitchen")
    assert camera == CameraIntrinsics(64, 48, 60.0, 60.0, 32.0, 24.0)


def test_gaps_in_the_frame_numbers_are_losses(tmp_path: Path) -> None:
    done = collect(SoftwareCamera(), tmp_path / "kitchen", [*range(3, 11), 14, 15, 17, *range(18, 24)])
    counts = done.summary.counts
    assert (counts.written, counts.dropped) == (19, 3 + 1)
    assert counts.causes == {"dropped by the camera": 4}
    assert done.summary.loss == pytest.approx(4 / 23)


@pytest.mark.parametrize("scale", [0.001, 0.0001, 0.00025])
def test_depth_is_in_millimetres_whatever_the_camera_counts_in(scale: float, tmp_path: Path) -> None:
    collect(SoftwareCamera(scale=scale), tmp_path / "kitchen", range(3, 6))
    for number, (_, depth) in recorded(tmp_path / "kitchen", tmp_path / "data").items():
        expected = np.rint(images(number)[1] * scale * 1000).astype(np.uint16)
        # A half may go either way, as the SDK's scale is a float32.
        assert np.abs(depth.astype(int) - expected).max() <= (0 if scale == 0.001 else 1)


def test_depth_lies_where_colour_sees_it() -> None:
    camera = SoftwareCamera(shift=0.05, focal=(55.0, 60.0))
    with RealSense(camera.device, REQUEST) as source:
        frames = source.frames()
        for number in (1, 2):
            camera.give(number, *images(number))
        aligned = next(frames).depth.pixels().copy()
    depth = images(1)[1]
    # The slow way: each measurement becomes a point and falls into the colour image, on a pixel or two.
    (cx, cy), reach = camera.center, 60 / 55 / 2 + 0.5 + 1e-3
    rows, columns = np.nonzero(depth)
    z = depth[rows, columns].astype(np.float64)
    u = ((columns - cx) / 55.0 * z - 50.0) / z * 60.0 + cx
    v = (rows - cy) / 55.0 * 60.0 + cy
    found = 0
    aligned[0], aligned[:, 0] = 0, 0  # the SDK lets what falls beside them end there, too
    for y, x in zip(*np.nonzero(aligned), strict=True):
        is_near = (np.abs(u - x) <= reach) & (np.abs(v - y) <= reach)
        assert aligned[y, x] in z[is_near]
        found += aligned[y, x] == z[is_near].min()
    assert (aligned > 0).sum() > 0.8 * aligned.size
    assert found > 0.8 * (aligned > 0).sum()  # the nearest wins where several fall on one pixel


def test_filters_are_off_unless_asked_for() -> None:
    def depth(request: StreamRequest) -> np.ndarray:
        camera = SoftwareCamera()
        with RealSense(camera.device, request) as source:
            for number in (1, 2):
                camera.give(number, *images(number))
            assert source.facts["filters"] == list(request.filters)
            return next(source.frames()).depth.pixels()

    holes = images(1)[1] == 0
    assert (depth(REQUEST)[holes] == 0).all()
    assert (depth(StreamRequest(64, 48, 30, ("hole_filling",)))[holes] > 0).mean() > 0.9
    with pytest.raises(UsageError, match="Did you mean 'temporal'"):
        StreamRequest(filters=("temporl",))


def test_a_size_that_the_camera_lacks_lists_those_it_has() -> None:
    with pytest.raises(RecordingError, match=r"640x480 at 30 .*from: 64x48 at 30"):
        RealSense(SoftwareCamera().device, StreamRequest())


def test_without_a_camera_the_error_says_what_to_do() -> None:
    if len(rs.context().query_devices()):
        pytest.skip("a RealSense is plugged in")
    with pytest.raises(RecordingError, match=r"99-realsense-libusb.rules.*--from FILE"):
        RealSense.of_camera(REQUEST)


@pytest.fixture(scope="module")
def file_of_the_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs in a file that the SDK's own recorder wrote."""
    path = tmp_path_factory.mktemp("sdk") / "robot.db3"
    camera = SoftwareCamera()
    recording = rs.recorder(str(path), camera.device)
    sensors, queue = recording.query_sensors(), rs.frame_queue(64)
    for sensor in sensors:
        sensor.open(sensor.profiles[0])
        sensor.start(queue)
    for number in range(1, 41):
        camera.give(number, *images(number))
        for _ in range(2):
            queue.wait_for_frame()
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    del recording, sensors, sensor
    gc.collect()  # closes the file
    return path


@pytest.mark.slow
def test_a_file_of_the_sdk_is_recorded_whole_however_slow_the_disk(file_of_the_sdk: Path, tmp_path: Path) -> None:
    with RealSense.of_file(file_of_the_sdk) as source:
        done = collect_pairs(
            source,
            lambda: recorder(source),
            tmp_path / "kitchen",
            on_pair=lambda: time.sleep(0.01),
        )
    assert (done.failure, done.summary.loss, done.summary.counts.dropped) == ("", 0, 0)
    found = recorded(tmp_path / "kitchen", tmp_path / "data")
    assert sorted(found) == list(range(1, 41))
    for number, (color, depth) in found.items():
        np.testing.assert_array_equal(color, images(number)[0])
        np.testing.assert_array_equal(depth, images(number)[1])


def test_a_file_can_be_left_before_its_end(file_of_the_sdk: Path, tmp_path: Path) -> None:
    with RealSense.of_file(file_of_the_sdk) as source:
        done = collect_pairs(source, lambda: recorder(source), tmp_path / "kitchen", duration_s=0.3)
    assert done.failure == "" and done.summary.counts.written == 9


def test_a_rosbag2_is_a_recording_already(file_of_the_sdk: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.bag"
    junk.write_bytes(b"junk" * 100)
    for path, message in (
        (tmp_path, "deal extract"),
        (tmp_path / "robot.mcap", "does not exist"),
        (junk, "was not recorded by RealSense's tools"),
    ):
        with pytest.raises(RecordingError, match=message):
            RealSense.of_file(path)
