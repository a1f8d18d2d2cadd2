"""Extract a recording into a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from deal_core.dataset.choices import ColorFormat
from deal_core.dataset.dataset import RECORDINGS, SOURCE_FILE
from deal_core.dataset.image_files import GroundTruth
from deal_core.dataset.writer import DatasetWriter, RecordingFolder, check_recording_name
from deal_core.errors import DatasetError, RecordingError, UsageError
from deal_core.files import owning
from deal_core.limits import read_bytes
from deal_core.ownership import remove_leftovers
from deal_core.recording.camera_poses import read_camera_poses
from deal_core.recording.depth_values import DepthValues
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import Recording, open_recording
from deal_core.recording.report import NO_CAMERA, RecordingReport, make_report
from deal_core.recording.tagged_frames import FrameReader, explain_no_pairs, read_camera
from deal_core.recording.tags import Session, TagTimeline, read_session, read_tags, recorded_depth
from deal_core.recording.topics import find_topics
from deal_core.recording.writer import GROUND_TRUTH, TAGS_TOPIC
from deal_core.structures import CameraIntrinsics, ClassList, TagState, classes_to_json, require_same_classes

# Options that version 0.1.0 did not have.
_NEWER = ("aligned", "depth_unit", "max_depth_m", "fixed_frame", "odometry_topic")
_LAYOUT = 1  # increases when the same recording gives other files


@dataclass(frozen=True)
class ExtractOptions:
    """Options of `extract_recording`.

    Attributes:
        classes: required if a recording does not name its classes; must agree if it does.
        tags: tags for a whole recording that contains no tags.
        color_topic, depth_topic: required if a recording has several.
        slop_ns: largest difference between the stamps of colour and depth; 0 pairs equal stamps only.
        aligned: whether depth is aligned to colour although its frame has another name.
        depth_unit: unit of depth, see `DepthValues`; None for the unit that the recording names, or "auto".
        max_depth_m: greatest depth that is a measurement, metres; None for that of the recording, or no limit.
        color_format: "png", exact, or "jpeg".
        jpeg_quality: 1 to 100.
        overwrite: replace a recording of the dataset.
        fixed_frame: frame of TF in which the poses of the camera are given; None chooses map, odom or the highest.
        odometry_topic: topic of nav_msgs/Odometry that gives the poses instead of TF; None for TF, or else the best.
    """

    classes: ClassList | None = None
    tags: TagState | None = None
    color_topic: str | None = None
    depth_topic: str | None = None
    slop_ns: int = 0
    aligned: bool = False
    depth_unit: str | None = None
    max_depth_m: float | None = None
    color_format: ColorFormat = "png"
    jpeg_quality: int = 95
    overwrite: bool = False
    fixed_frame: str | None = None
    odometry_topic: str | None = None


@dataclass(frozen=True)
class Extraction:
    """An extracted recording.

    Attributes:
        name: name of its folder in the dataset.
        report: counts of extracted and skipped frames; `report.errors` lists what is wrong.
        was_there: whether the same extraction was done before, so that nothing was done now.
    """

    name: str
    report: RecordingReport
    was_there: bool


def extract_recording(
    path: Path,
    dataset: Path,
    options: ExtractOptions,
    *,
    name: str | None = None,
    is_owned: bool = False,
    on_start: Callable[[int], object] = lambda total: None,
    on_pair: Callable[[], object] = lambda: None,
) -> Extraction:
    """Add a recording to a dataset, which is created if it does not exist.

    Frames that the operator marked to be ignored and unreadable pairs are left out and counted. A drawn mask beside the
    recording (`ground_truth/<stamp_ns>.png`) is copied for evaluation. An extraction that was done before, from the
    same files with the same options, is not repeated. What an extraction left that was killed is removed.

    Args:
        path: recording to extract.
        dataset: folder of the dataset.
        options: how to extract.
        name: name of the folder in the dataset; the recording's name if None.
        is_owned: whether the caller is within `deal_core.files.owning` of the dataset, to extract several recordings.
        on_start: called with the number of colour images before the first is read.
        on_pair: called after each written frame.

    Raises:
        RecordingError: the recording gives no frame.
        DatasetError: the dataset already contains another extraction of it, or has other classes.
        InUseError: another process adds recordings to the dataset.
        UsageError: classes or tags are missing, unknown, or given twice.
    """
    with open_recording(path) as recording, nullcontext() if is_owned else owning(dataset, DatasetError):
        name = name or recording.name
        check_recording_name(name)
        session = read_session(recording, MessageDecoder())
        depth = recorded_depth(session, options.depth_unit, options.max_depth_m)
        decoder = MessageDecoder(depth)
        classes = _classes(recording, session, options)
        writer = DatasetWriter(dataset, classes)
        remove_leftovers(dataset)
        fingerprint = _fingerprint(recording, classes, options)
        if not options.overwrite and (report := _done_before(dataset, name, fingerprint)):
            return Extraction(name, report, was_there=True)
        folder = writer.recording(
            name, overwrite=options.overwrite, color_format=options.color_format, jpeg_quality=options.jpeg_quality
        )
        topics = find_topics(recording, decoder, color_topic=options.color_topic, depth_topic=options.depth_topic)
        timeline = _timeline(recording, decoder, classes, options)
        reader = FrameReader(recording, topics, timeline, decoder, slop_ns=options.slop_ns, aligned=options.aligned)
        on_start(topics.color.count)
        with folder:
            report = _write_frames(folder, reader, depth, classes, options, on_pair)
            if not report.frames:
                raise RecordingError(_why_no_frames(recording, reader, report, options.slop_ns))
            source = {"fingerprint": fingerprint, "session": session.facts, "depth": asdict(depth)}
            folder.write_source({**source, "report": asdict(report)})
    return Extraction(name, report, was_there=False)


def _classes(recording: Recording, session: Session, options: ExtractOptions) -> ClassList:
    if session.classes is None:
        if options.classes is None:
            raise UsageError(f"{recording.path} does not name its classes: name them, as in --classes mug,drill")
        return options.classes
    if options.classes is not None:
        require_same_classes(options.classes, "--classes", session.classes, str(recording.path))
    return session.classes


def _timeline(
    recording: Recording, decoder: MessageDecoder, classes: ClassList, options: ExtractOptions
) -> TagTimeline:
    if recording.count(TAGS_TOPIC):
        if options.tags is not None:
            raise UsageError(f"{recording.path} contains tags, so --tags must be left out")
        return read_tags(recording, decoder, classes)
    if options.tags is None:
        raise UsageError(
            f"{recording.path} contains no tags: name the classes that are always visible, as in --tags mug"
        )
    options.tags.vector(classes)
    return TagTimeline.constant(options.tags)


def _write_frames(
    folder: RecordingFolder,
    reader: FrameReader,
    depth: DepthValues,
    classes: ClassList,
    options: ExtractOptions,
    on_pair: Callable[[], object],
) -> RecordingReport:
    """Write all frames with their masks, and the camera and its poses if they are known."""
    masks = GroundTruth(reader.recording.folder / GROUND_TRUTH, classes)
    stamps = []
    for frame in reader:
        stamps.append(frame.pair.stamp_ns)
        mask = masks.read(frame.pair.stamp_ns, frame.pair.depth_mm.shape)
        folder.write(frame.pair, frame.tags, frame.segment, mask)
        on_pair()
    camera = read_camera(reader.recording, reader.decoder, reader.topics, reader.size) if reader.size else None
    if camera:
        folder.write_camera(camera, depth_unit=depth.unit_of(reader.survey.depth_encoding), max_depth_m=depth.max_m)
    known = _write_poses(folder, reader, camera, stamps, options) if camera else [NO_CAMERA]
    notes = [*masks.notes(), *known]
    return make_report(reader, classes, masks=masks.used, notes=notes, errors=masks.problems)


def _write_poses(
    folder: RecordingFolder,
    reader: FrameReader,
    camera: CameraIntrinsics,
    stamps: Sequence[int],
    options: ExtractOptions,
) -> tuple[str, ...]:
    """Write the poses that the recording has, and return what is to be said of them."""
    found = read_camera_poses(
        reader.recording,
        reader.decoder,
        camera.frame_id,
        stamps,
        fixed_frame=options.fixed_frame,
        odometry_topic=options.odometry_topic,
    )
    if found.poses:
        folder.write_poses(found.poses)
    return found.notes


def _why_no_frames(recording: Recording, reader: FrameReader, report: RecordingReport, slop_ns: int) -> str:
    if not report.pairs:
        return explain_no_pairs(recording, reader.counts, slop_ns)
    causes = "; ".join([*(f"{n} pairs: {cause}" for cause, n in report.skipped.items()), *report.errors[:3]])
    return f"{recording.path} gives no frame. {causes}"


def _fingerprint(recording: Recording, classes: ClassList, options: ExtractOptions) -> str:
    """Return a digest of everything that determines the extracted files.

    A data file counts by its size and both ends, which contain the first and last messages and the index.
    """
    decides = {**asdict(options), "classes": classes_to_json(classes), "layout": _LAYOUT}
    del decides["overwrite"]
    usual = asdict(ExtractOptions())
    for name in _NEWER:
        if decides[name] == usual[name]:
            del decides[name]  # the digest of version 0.1.0
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for file in recording.files:
        for part in sorted(file.iterdir()) if file.is_dir() else [file]:
            if part.is_file():
                digest.update(f"{part.name} {part.stat().st_size} ".encode() + _ends(part))
    masks = recording.folder / GROUND_TRUTH
    for mask in sorted(masks.iterdir()) if masks.is_dir() else []:
        with suppress(OSError):  # what is no mask is counted when it is read
            digest.update(f"{mask.name} ".encode() + read_bytes(mask, "message_bytes"))
    return digest.hexdigest()


def _ends(file: Path, length: int = 65536) -> bytes:
    with file.open("rb") as data:
        head = data.read(length)
        data.seek(max(file.stat().st_size - length, 0))
        return head + data.read(length)


class _Source(BaseModel):
    """The part of source.json that says whether an extraction was done before."""

    fingerprint: str
    report: RecordingReport


def _done_before(dataset: Path, name: str, fingerprint: str) -> RecordingReport | None:
    try:
        source = _Source.model_validate_json(read_bytes(dataset / RECORDINGS / name / SOURCE_FILE, "description_bytes"))
    except (OSError, ValidationError):
        return None  # missing, or written by another tool: then the folder must not exist
    return source.report if source.fingerprint == fingerprint else None
