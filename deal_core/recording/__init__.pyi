# The names that users may rely on; each is imported when it is first used.
from .image_encodings import decode_image
from .image_messages import MessageDecoder
from .pairing import Pair, PairingCounts, StampPairer
from .reader import RawMessage, Recording, Topic, open_recording
from .repair import Repair, repair_recording
from .report import RecordingReport
from .tagged_frames import FrameReader, TaggedFrame
from .tags import Session, TagSpan, TagTimeline, read_session
from .topics import ImageTopics, find_topics
from .writer import RecordingWriter

__all__ = [
    "FrameReader",
    "ImageTopics",
    "MessageDecoder",
    "Pair",
    "PairingCounts",
    "RawMessage",
    "Recording",
    "RecordingReport",
    "RecordingWriter",
    "Repair",
    "Session",
    "StampPairer",
    "TagSpan",
    "TagTimeline",
    "TaggedFrame",
    "Topic",
    "decode_image",
    "find_topics",
    "open_recording",
    "read_session",
    "repair_recording",
]
