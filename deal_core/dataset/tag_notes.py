"""What the tags of a dataset cannot teach, known before any training: counted over segments, without images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.structures import BoolArray, ClassList, TagState

FEWEST_SEGMENTS = 4
"""A class with fewer segments that show it, or fewer that do not, hangs on single scenes."""
APART = 0.1
"""Two classes that are apart in a smaller share of the segments with one of them are not told apart."""
_FEWEST_TOGETHER = 3


def tag_notes(dataset: Dataset) -> list[str]:
    """Return a sentence for everything that the tags cannot teach, with what to record; empty if they can teach all.

    Frames in a row count once if they are of one segment and have the same tags.
    """
    rows = [
        row for row, frame in enumerate(dataset.frames) if not row or _scene(frame) != _scene(dataset.frames[row - 1])
    ]
    if not rows:
        return []
    tags, classes = dataset.tags[rows], dataset.classes
    present, absent = tags == 1, tags == 0
    recordings = [dataset.frames[row].recording for row in rows]
    return [
        *_sides(present, absent, classes),
        *_together(present, absent, classes),
        *_by_recording(present, absent, recordings, classes),
    ]


def _scene(frame: FrameRecord) -> tuple[str, int, TagState]:
    return frame.recording, frame.segment, frame.tags


def _sides(present: BoolArray, absent: BoolArray, classes: ClassList) -> list[str]:
    with_it, without = present.sum(0), absent.sum(0)
    cases = {
        "classes that are never tagged present, and so cannot be learnt": with_it == 0,
        "classes that are never tagged absent, and so cannot be told from the background": (without == 0)
        & (with_it > 0),
        f"classes in fewer than {FEWEST_SEGMENTS} segments; record them in more scenes": (with_it > 0)
        & (with_it < FEWEST_SEGMENTS),
        f"classes absent in fewer than {FEWEST_SEGMENTS} segments; record the same places without them": (without > 0)
        & (without < FEWEST_SEGMENTS)
        & (with_it > 0),
    }
    return [
        f"{text}: {', '.join(name for name, one in zip(classes.names, chosen, strict=True) if one)}"
        for text, chosen in cases.items()
        if chosen.any()
    ]


def _together(present: BoolArray, absent: BoolArray, classes: ClassList) -> list[str]:
    known = present | absent
    notes = []
    for one, two in combinations(range(len(classes)), 2):
        both_known = known[:, one] & known[:, two]
        both = int((present[:, one] & present[:, two] & both_known).sum())
        apart = int((present[both_known, one] != present[both_known, two]).sum())
        if both >= _FEWEST_TOGETHER and apart < APART * (both + apart) and absent[both_known, one].any():
            notes.append(
                f"{classes.names[one]} and {classes.names[two]} come together in {both} segments and apart in {apart}: "
                "nothing tells their masks apart; record each without the other"
            )
    return notes


def _by_recording(present: BoolArray, absent: BoolArray, recordings: Sequence[str], classes: ClassList) -> list[str]:
    """Name classes that are in every segment of some recordings and in none of the others."""
    rows = {name: [row for row, one in enumerate(recordings) if one == name] for name in sorted(set(recordings))}
    if len(rows) == len(recordings):
        return []
    notes = []
    for index, class_name in enumerate(classes.names):
        always = [name for name, mine in rows.items() if present[mine, index].all()]
        never = [name for name, mine in rows.items() if absent[mine, index].all()]
        if always and never and len(always) + len(never) == len(rows):
            notes.append(
                f"{class_name} is in every segment of {_listed(always)} and in none of {_listed(never)}: the place can "
                "stand for it; record the same place without it"
            )
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} others"
