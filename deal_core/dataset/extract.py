"""Turn a recording into a folder of a dataset."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from deal_core.dataset.choices import ColorFormat
from deal_core.dataset.dataset import RECORDINGS, SOURCE_FILE
from deal_core.dataset.image_files import GroundTruth
from deal_core.dataset.writer import DatasetWriter, RecordingFolder, check_recording_name
from deal_core.errors import RecordingError, UsageError
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import Recording, open_recording
from deal_core.recording.report import NO_CAMERA, RecordingReport, make_report
from deal_core.recording.tagged_frames import FrameReader, explain_no_pairs, fit_camera, read_camera
from deal_core.recording.tags import Session, TagTimeline, read_session, read_tags
from deal_core.recording.topics import find_topics
from deal_core.recording.writer import GROUND_TRUTH, TAGS_TOPIC
from deal_core.structures import ClassList, TagState, classes_to_json, require_same_classes

_LAYOUT = 1  # counts up when the same recording would give other files


@dataclass(frozen=True)
class ExtractOptions:
    """How recordings become a dataset.

    Attributes:
        classes: needed where a recording does not name its classes; must agree where it does.
        tags: hold for the whole of a recording that has no tags.
        color_topic, depth_topic: needed where a recording has several.
        slop_ns: largest difference between the stamps of colour and depth; 0 pairs equal stamps only.
        color_format: "png", exact, or "jpeg".
        jpeg_quality: 1 to 100.
        overwrite: replace a recording that is in the dataset.
    """

    classes: ClassList | None = None
    tags: TagState | None = None
    color_topic: str | None = None
    depth_topic: str | None = None
    slop_ns: int = 0
    color_format: ColorFormat = "png"
    jpeg_quality: int = 95
    overwrite: bool = False


@dataclass(frozen=True)
class Extraction:
    """A recording that is in the dataset now.

    Attributes:
        name: its folder in the dataset.
        report: what was extracted and what was left out; `report.errors` is empty if all was well.
        was_there: the same extraction was done before, so nothing was done.
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
    on_start: Callable[[int], None] | None = None,
    on_pair: Callable[[], None] | None = None,
) -> Extraction:
    """Add a recording to a dataset folder, which is made if it does not exist.

    Frames that the operator marked to be ignored are left out, and so are pairs that cannot be read; both are
    counted. A drawn mask beside the recording (`ground_truth/<stamp_ns>.png`) is copied for evaluation. An
    extraction that was done before, from the same files with the same options, is not repeated.

    Args:
        path: a recording.
        dataset: the dataset folder.
        options: see `ExtractOptions`.
        name: of the folder in the dataset; the recording's own name by default.
        on_start: called with the number of colour images before the first is read.
        on_pair: called for each frame written.

    Raises:
        RecordingError: the recording gives no frame.
        DatasetError: it is in the dataset already, in another form, or its classes are not the dataset's.
        UsageError: classes or tags are missing, unknown, or given twice.
    """
    with open_recording(path) as recording:
        name = name or recording.name
        check_recording_name(name)
        decoder = MessageDecoder()
        session = read_session(recording, decoder)
        classes = _classes(recording, session, options)
        writer = DatasetWriter(dataset, classes)
        fingerprint = _fingerprint(recording, classes, options)
        if not options.overwrite and (report := _done_before(dataset, name, fingerprint)):
            return Extraction(name, report, was_there=True)
        folder = writer.recording(
            name,
            overwrite=options.overwrite,
            color_format=options.color_format,
            jpeg_quality=options.jpeg_quality,
        )
        topics = find_topics(recording, decoder, color_topic=options.color_topic, depth_topic=options.depth_topic)
        timeline = _timeline(recording, decoder, classes, options)
        reader = FrameReader(recording, topics, timeline, decoder, slop_ns=options.slop_ns)
        camera = read_camera(recording, decoder, topics)
        masks = GroundTruth(recording.folder / GROUND_TRUTH, classes)
        if on_start:
            on_start(topics.color.count)
        with folder:
            frames = _write_frames(folder, reader, masks, on_pair)
            camera = fit_camera(camera, reader.size)
            report = make_report(
                recording,
                topics,
                classes,
                timeline,
                reader.counts,
                frames,
                masks=masks.used,
                notes=[*masks.notes(), *([] if camera else [NO_CAMERA])],
                errors=masks.problems,
            )
            if not report.frames:
                raise RecordingError(_why_no_frames(recording, reader, report, options.slop_ns))
            if camera:
                folder.write_camera(camera)
            folder.write_source({"fingerprint": fingerprint, "session": session.facts, "report": asdict(report)})
    return Extraction(name, report, was_there=False)


def _classes(recording: Recording, session: Session, options: ExtractOptions) -> ClassList:
    if session.classes is None:
        if options.classes is None:
            raise UsageError(f"{recording.path} does not say its classes: name them, as in --classes mug,drill")
        return options.classes
    if options.classes is not None:
        require_same_classes(options.classes, "--classes", session.classes, str(recording.path))
    return session.classes


def _timeline(
    recording: Recording, decoder: MessageDecoder, classes: ClassList, options: ExtractOptions
) -> TagTimeline:
    if recording.count(TAGS_TOPIC):
        if options.tags is not None:
            raise UsageError(f"{recording.path} holds tags, so --tags cannot set others: leave it out")
        return read_tags(recording, decoder, classes)
    if options.tags is None:
        raise UsageError(f"{recording.path} holds no tags: say what is visible throughout, as in --tags mug")
    options.tags.vector(classes)
    return TagTimeline.constant(options.tags)


def _write_frames(
    folder: RecordingFolder, reader: FrameReader, masks: GroundTruth, on_pair: Callable[[], None] | None
) -> Counter[tuple[TagState, int]]:
    """Write all frames with their masks; return the number of frames by tags and segment."""
    frames: Counter[tuple[TagState, int]] = Counter()
    for frame in reader:
        mask = masks.read(frame.pair.stamp_ns, frame.pair.depth_mm.shape)
        folder.write(frame.pair, frame.tags, frame.segment, mask)
        frames[frame.tags, frame.segment] += 1
        if on_pair:
            on_pair()
    return frames


def _why_no_frames(recording: Recording, reader: FrameReader, report: RecordingReport, slop_ns: int) -> str:
    if not report.pairs:
        return explain_no_pairs(recording, reader.counts, slop_ns)
    causes = "; ".join([*(f"{n} pairs: {cause}" for cause, n in report.skipped.items()), *report.errors[:3]])
    return f"{recording.path} gives no frame. {causes}"


def _fingerprint(recording: Recording, classes: ClassList, options: ExtractOptions) -> str:
    """Return a digest of what decides on the files that extraction writes.

    Data files count by size and both ends, which hold the first and last messages and the index.
    """
    decides = {**asdict(options), "classes": classes_to_json(classes), "layout": _LAYOUT}
    del decides["overwrite"]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for file in recording.files:
        for part in sorted(file.iterdir()) if file.is_dir() else [file]:
            if part.is_file():
                digest.update(f"{part.name} {part.stat().st_size} ".encode() + _ends(part))
    masks = recording.folder / GROUND_TRUTH
    for mask in sorted(masks.iterdir()) if masks.is_dir() else []:
        digest.update(f"{mask.name} ".encode() + mask.read_bytes())
    return digest.hexdigest()


def _ends(file: Path, length: int = 65536) -> bytes:
    with file.open("rb") as data:
        head = data.read(length)
        data.seek(max(file.stat().st_size - length, 0))
        return head + data.read(length)


def _done_before(dataset: Path, name: str, fingerprint: str) -> RecordingReport | None:
    try:
        source = json.loads((dataset / RECORDINGS / name / SOURCE_FILE).read_text(encoding="utf-8"))
        return RecordingReport.from_json(source["report"]) if source["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing, or written by another tool: then the folder's existence decides
