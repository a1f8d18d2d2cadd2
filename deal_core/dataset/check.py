"""Check a recording or a dataset: count its contents and find its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from deal_core.dataset.bop import missing_hope_sequences
from deal_core.dataset.dataset import (
    DATASET_FILE,
    RECORDINGS,
    Dataset,
    FrameRecord,
    has_class,
    masks_without_class,
    read_classes,
    read_frames,
    recording_names,
)
from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.image_files import GroundTruth, first_few
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.dataset.tag_notes import tag_notes
from deal_core.errors import DatasetError, RecordingError, UsageError
from deal_core.ownership import leftovers_of
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import open_recording
from deal_core.recording.report import NO_CAMERA, Gaps, RecordingReport, TagBalance, make_report, tag_balance
from deal_core.recording.tagged_frames import FrameReader, explain_no_pairs, read_camera
from deal_core.recording.tags import TagTimeline, read_session, read_tags, recorded_depth
from deal_core.recording.topics import find_topics
from deal_core.recording.writer import GROUND_TRUTH, TAGS_TOPIC
from deal_core.structures import ClassList, DepthKind, TagState

_DEPTH = 2
_NO_DEPTH = "no image has depth, which the loss DEAL needs: estimate depth with `deal depth`, and check it with --depth"


@dataclass(frozen=True)
class DatasetRecording:
    """One recording of a dataset in numbers.

    Attributes:
        name: name of its folder.
        frames: number of listed frames.
        segments: number of segments with frames.
        gaps: pauses in the frames' stamps; None in layouts without time.
        masks: number of frames with a drawn mask.
        without_depth: number of frames without a valid depth pixel.
        valid_depth: mean share of valid depth pixels, 0 to 1.
        has_camera: whether the intrinsics are known.
    """

    name: str
    frames: int
    segments: int
    gaps: Gaps | None
    masks: int
    without_depth: int
    valid_depth: float
    has_camera: bool


@dataclass(frozen=True)
class DatasetReport:
    """A dataset in numbers; plain values that are written as JSON.

    Attributes:
        path: folder of the dataset.
        classes: names of the classes.
        depth_kind: metric or inverse; None if no frame has depth.
        recordings: the recordings in numbers.
        tags: number of frames with each tag, by class.
        notes: remarks that are not errors.
        errors: everything that is wrong.
    """

    path: str
    classes: list[str] = field(default_factory=list)
    depth_kind: DepthKind | None = None
    recordings: list[DatasetRecording] = field(default_factory=list)
    tags: dict[str, TagBalance] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def is_dataset(path: Path) -> bool:
    """Return whether a path is a dataset folder and not a recording."""
    return (path / DATASET_FILE).is_file()


def check_recording(
    path: Path,
    *,
    color_topic: str | None = None,
    depth_topic: str | None = None,
    slop_ns: int = 0,
    aligned: bool = False,
    depth_unit: str | None = None,
    max_depth_m: float | None = None,
    on_start: Callable[[int], object] = lambda total: None,
    on_frame: Callable[[], object] = lambda: None,
) -> RecordingReport:
    """Decode a whole recording and report on it; errors are listed in the report, not raised.

    Args:
        path: recording of any kind, also a damaged one.
        color_topic: required if the recording has several.
        depth_topic: required if the recording has several.
        slop_ns: largest difference between the stamps of colour and depth.
        aligned: whether depth is aligned to colour although its frame has another name.
        depth_unit: unit of depth, see `DepthValues`; None for the unit that the recording names, or "auto".
        max_depth_m: greatest depth that is a measurement, metres; None for that of the recording, or no limit.
        on_start: called with the number of images before the first is read.
        on_frame: called after each frame.
    """
    try:
        recording = open_recording(path)
    except RecordingError as error:
        notes = leftovers_of(path, _DEPTH)  # it may be what a killed process left of a dataset or a training
        return RecordingReport(str(path), notes=notes, errors=[str(error)])
    with recording:
        try:
            session = read_session(recording, MessageDecoder())
            decoder = MessageDecoder(recorded_depth(session, depth_unit, max_depth_m))
            topics = find_topics(recording, decoder, color_topic=color_topic, depth_topic=depth_topic)
            tagged = recording.count(TAGS_TOPIC) > 0
            timeline = read_tags(recording, decoder, session.classes) if tagged else TagTimeline.constant(TagState())
            reader = FrameReader(recording, topics, timeline, decoder, slop_ns=slop_ns, aligned=aligned)
            report = _check_frames_of(reader, session.classes, on_start, on_frame, tagged=tagged)
        except (RecordingError, DatasetError) as error:
            counted = {topic.name: topic.count for topic in recording.topics}
            report = RecordingReport(str(path), topics=counted, errors=[*recording.problems, str(error)])
        if recording.problems:
            note = f"`deal check {path} --repair` writes everything that is readable as a new, whole recording"
            report = replace(report, notes=[*report.notes, note])
        return replace(report, notes=[*report.notes, *leftovers_of(path, _DEPTH)])


def check_dataset(
    path: Path,
    *,
    depth: Path | None = None,
    on_start: Callable[[int], object] = lambda total: None,
    on_frame: Callable[[], object] = lambda: None,
) -> DatasetReport:
    """Load every frame of a dataset of the project's own layout and report on it.

    Errors are listed in the report; a recording with a damaged list does not stop the others from being read.

    Args:
        path: folder of the dataset.
        depth: folder of depth maps to check instead of the sensor's depth.
        on_start: called with the number of frames before the first is loaded.
        on_frame: called after each frame.
    """
    try:
        classes = read_classes(path)
    except DatasetError as error:
        return DatasetReport(str(path), notes=leftovers_of(path), errors=[str(error)])
    errors: list[str] = []
    listed: dict[str, list[FrameRecord]] = {}
    for name in recording_names(path):
        listed[name] = []
        try:
            listed[name].extend(read_frames(path, name, classes))
        except DatasetError as error:
            errors.append(str(error))
    dataset = Dataset(path, classes, [frame for frames in listed.values() for frame in frames])
    if not len(dataset):
        errors.append(f"{path} contains no frames")
    if depth:
        try:
            dataset = dataset.with_depth(DepthMaps.open(depth))
        except DatasetError as error:
            errors.append(str(error))
    notes = [*_unlisted(path, listed), *leftovers_of(path)]
    return _check_loaded(dataset, listed, errors, notes, on_start, on_frame, has_time=True)


def check_source(
    source: SourceSettings,
    *,
    as_hope: bool = False,
    on_start: Callable[[int], object] = lambda total: None,
    on_frame: Callable[[], object] = lambda: None,
) -> DatasetReport:
    """Load every frame of a dataset in an official layout and report on it; errors are listed in the report.

    Args:
        source: dataset in an official layout; `check_dataset` reads the project's own.
        as_hope: note the missing sequences of HOPE's static onboarding.
        on_start: called with the number of frames before the first is loaded.
        on_frame: called after each frame.
    """
    try:
        dataset = open_dataset(source)
    except (DatasetError, UsageError) as error:
        return DatasetReport(str(source.path), errors=[str(error)])
    listed = {name: dataset.subset([name]).frames for name in dataset.recordings}
    notes = list(dataset.notes)
    if as_hope and (missing := missing_hope_sequences(dataset.recordings, source.split)):
        notes.append(f"{len(missing)} sequences of HOPE's static onboarding are missing: {first_few(missing)}")
    return _check_loaded(dataset, listed, [], notes, on_start, on_frame, has_time=False)


def _check_loaded(
    dataset: Dataset,
    listed: dict[str, list[FrameRecord]],
    errors: list[str],
    notes: list[str],
    on_start: Callable[[int], object],
    on_frame: Callable[[], object],
    *,
    has_time: bool,
) -> DatasetReport:
    on_start(len(dataset))
    recordings = [_check_frames(dataset, name, frames, errors, on_frame, has_time) for name, frames in listed.items()]
    balance = tag_balance(dataset.classes, Counter((frame.tags, frame.segment) for frame in dataset.frames))
    untagged = 0 if has_time else sum(not frame.tags.present for frame in dataset.frames)
    return DatasetReport(
        path=str(dataset.path),
        classes=list(dataset.classes.names),
        depth_kind=dataset.depth_kind if dataset.has_depth else None,
        recordings=recordings,
        tags=balance,
        notes=[
            *tag_notes(dataset),
            *([f"{untagged} images have no tag: no class is visible in them"] if untagged else []),
            *([] if dataset.has_depth or not len(dataset) else [_NO_DEPTH]),
            *notes,
        ],
        errors=errors,
    )


def _check_frames_of(
    reader: FrameReader,
    recorded: ClassList | None,
    on_start: Callable[[int], object],
    on_frame: Callable[[], object],
    *,
    tagged: bool,
) -> RecordingReport:
    recording, timeline = reader.recording, reader.timeline
    names = timeline.names()
    classes = recorded or (ClassList(tuple(names)) if names else None)
    masks = GroundTruth(recording.folder / GROUND_TRUTH, classes) if classes else None
    on_start(reader.topics.color.count)
    for frame in reader:
        if masks:
            masks.read(frame.pair.stamp_ns, frame.pair.depth_mm.shape)
        on_frame()
    errors = []
    if not reader.counts.pairing.paired:
        errors.append(explain_no_pairs(recording, reader.counts, reader.slop_ns))
    elif not reader.counts.frames:
        errors.append(f"{recording.path} gives no frame: every pair was skipped")
    camera = read_camera(recording, reader.decoder, reader.topics, reader.size) if reader.size else None
    notes = [] if camera else [NO_CAMERA]
    if recorded is None:
        notes.append("the recording does not name its classes: `deal extract` needs --classes")
    if not tagged:
        notes.append("the recording contains no tags: `deal extract` needs --tags")
    return make_report(
        reader,
        classes,
        masks=masks.used if masks else 0,
        notes=[*notes, *(masks.notes() if masks else [])],
        errors=[*errors, *(masks.problems if masks else [])],
    )


def _check_frames(
    dataset: Dataset,
    name: str,
    frames: list[FrameRecord],
    errors: list[str],
    on_frame: Callable[[], object],
    has_time: bool,
) -> DatasetRecording:
    valid = []
    drawn: list[bool] = []
    for frame in frames:
        try:
            sample = dataset.load(frame)
            valid.append(float(sample.depth_valid.mean()))
            if sample.mask is not None and frame.tags.present:
                drawn.append(has_class(sample.mask))
        except DatasetError as error:
            errors.append(str(error))
        on_frame()
    if drawn and not any(drawn):
        errors.append(str(masks_without_class(name, dataset.classes)))
    try:
        camera = dataset.camera(name)
    except DatasetError as error:
        camera = None
        errors.append(str(error))
    return DatasetRecording(
        name=name,
        frames=len(frames),
        segments=len({frame.segment for frame in frames}),
        gaps=Gaps.of([frame.stamp_ns for frame in frames]) if has_time else None,
        masks=sum(frame.mask is not None for frame in frames),
        without_depth=sum(share == 0 for share in valid),
        valid_depth=sum(valid) / max(len(valid), 1),
        has_camera=camera is not None,
    )


def _unlisted(path: Path, listed: dict[str, list[FrameRecord]]) -> list[str]:
    """Return notes on image files that no line of frames.jsonl names."""
    notes = []
    for name, frames in listed.items():
        known = {file for frame in frames for file in (frame.color, frame.depth, frame.mask)}
        folder = path / RECORDINGS / name
        extra = [f for kind in ("color", "depth", "masks") for f in folder.glob(f"{kind}/*") if f not in known]
        if extra:
            notes.append(f"{name}: no line of frames.jsonl names {len(extra)} image files, as {extra[0].name}")
    return notes
