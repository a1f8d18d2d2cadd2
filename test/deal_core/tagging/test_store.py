"""Edits of tags: on disk when they are acknowledged, whole after a kill, merged between taggers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.taps import Box, Tap
from deal_core.errors import DatasetError, InUseError, UsageError
from deal_core.structures import ClassList, TagMarker, TagState
from deal_core.tagging.store import ABSENT, PRESENT, UNKNOWN, Change, MarkChange, TagStore, states_of, tags_of

MakeDataset = Callable[..., Path]
CLASSES = ClassList(("mug", "pepper mill", "jar"))


def on_disk(path: Path) -> np.ndarray:
    return states_of([frame.tags for frame in Dataset.open(path).frames], CLASSES)


def test_an_edit_is_on_disk_and_leaves_the_other_lines_as_they_were(make_dataset: MakeDataset) -> None:
    path = make_dataset(6, 2)
    file = path / "recordings" / "a" / "frames.jsonl"
    before = file.read_text().splitlines()
    other = (path / "recordings" / "b" / "frames.jsonl").stat().st_ino
    with TagStore(path) as store:
        assert store.frames[4].key == "a/4"
        done = store.edit([Change(4, 0, PRESENT), Change(4, 1, ABSENT)])
        assert (done.revision, done.refused) == (1, ())
        assert on_disk(path)[4].tolist() == [PRESENT, ABSENT, UNKNOWN]
        store.edit([Change(4, 2, ABSENT)])
    after = file.read_text().splitlines()
    assert [i for i in range(6) if before[i] != after[i]] == [4]
    assert json.loads(after[4])["tags"] == {"present": ["mug"], "absent": [], "marker": "complete"}
    assert (path / "recordings" / "b" / "frames.jsonl").stat().st_ino == other
    assert not list(path.rglob(".*")), "nothing temporary is left"


@given(st.lists(st.sampled_from([PRESENT, ABSENT, UNKNOWN]), min_size=3, max_size=3))
def test_tags_say_what_the_states_say(states: list[int]) -> None:
    assert states_of([tags_of(states, CLASSES)], CLASSES)[0].tolist() == states


def test_of_two_taggers_the_first_keeps_a_class_and_both_keep_different_ones(make_dataset: MakeDataset) -> None:
    with TagStore(make_dataset(3)) as store:
        store.edit([Change(0, 0, PRESENT)], seen=0, tagger="ann")
        done = store.edit([Change(0, 0, ABSENT), Change(0, 1, PRESENT), Change(1, 0, ABSENT)], seen=0, tagger="ben")
        assert done.refused == (Change(0, 0, PRESENT),)
        assert store.states()[:2].tolist() == [[PRESENT, PRESENT, UNKNOWN], [ABSENT, UNKNOWN, UNKNOWN]]
        assert store.changed_since(1) == (2, [0, 1])
        # Who has seen it may change it, and nobody is refused on account of himself.
        assert not store.edit([Change(0, 0, ABSENT)], seen=2, tagger="ben").refused
        assert not store.edit([Change(0, 0, UNKNOWN)], seen=0, tagger="ben").refused
        assert store.changed_since(4) == (4, [])


def test_a_second_process_is_refused_until_the_first_ends(make_dataset: MakeDataset) -> None:
    path = make_dataset(2)
    message = rf"kitchen is being tagged by process {os.getpid()}: open the page that it printed"
    with TagStore(path), pytest.raises(InUseError, match=message):
        TagStore(path)
    with TagStore(path):
        pass


WRITER = """
import sys
from deal_core.tagging.store import Change, TagStore
with TagStore(sys.argv[1]) as store:
    for number in range(1_000_000):
        for frames in (range(0, 400), range(400, 800)):
            store.edit([Change(frame, 0, number % 2) for frame in frames])
        print(number % 2, flush=True)
"""


def test_a_process_killed_while_saving_loses_nothing_it_acknowledged(make_dataset: MakeDataset) -> None:
    path = make_dataset(800)
    for kept in (2, 3, 5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        for _ in range(kept):
            assert writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        last = int(rest[-1]) if rest else (kept - 1) % 2
        # Each half is as one of its edits left it: that acknowledged last, or one that was under way.
        halves = on_disk(path)[:, 0].reshape(2, 400)
        assert all(len(set(half.tolist())) == 1 for half in halves)
        assert halves[:, 0].tolist() in ([last, last], [1 - last, last], [1 - last, 1 - last])
        with TagStore(path) as store:  # the lock went with the process, and editing goes on
            store.edit([Change(0, 1, PRESENT)])
            store.edit([Change(0, 1, UNKNOWN)])
    assert not list(path.rglob(".*")), "what the killed processes left is gone"


def test_what_cannot_be_saved_is_told_and_changes_nothing(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset(3)
    file = path / "recordings" / "a" / "frames.jsonl"
    with TagStore(path) as store:
        with monkeypatch.context() as patch:

            def full(_: int) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(os, "fsync", full)
            with pytest.raises(DatasetError, match=r"frames\.jsonl cannot be written.*: the disk is full"):
                store.edit([Change(0, 0, PRESENT)])
        assert (store.states() == UNKNOWN).all() and (on_disk(path) == UNKNOWN).all() and store.revision == 0
        file.write_text(file.read_text())  # a text editor, say
        with pytest.raises(DatasetError, match=r"changed by another program"):
            store.edit([Change(0, 0, PRESENT)])
        with pytest.raises(UsageError, match=r"a frame below 3.*found \(3, 0, 1\)"):
            store.edit([Change(3, 0, PRESENT)])
    with pytest.raises(DatasetError, match="closed"):
        store.edit([Change(0, 0, PRESENT)])


def test_a_folder_that_cannot_be_written_is_told_at_once(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dataset(2)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for _ in range(2):  # and it is not left locked
        with pytest.raises(DatasetError, match=r"recordings/a is not writable.*make it writable"):
            TagStore(path)


def test_a_class_misspelt_by_hand_names_file_line_and_the_nearest(make_dataset: MakeDataset) -> None:
    path = make_dataset(3)
    file = path / "recordings" / "a" / "frames.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace('"present": []', '"present": ["mugg"]')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=r"frames\.jsonl line 2: unknown class 'mugg'.*Did you mean 'mug'\?"):
        TagStore(path)


def test_frames_to_be_ignored_are_unknown_until_they_are_edited(make_dataset: MakeDataset) -> None:
    path = make_dataset(2)
    file = path / "recordings" / "a" / "frames.jsonl"
    file.write_text(file.read_text().replace('"partial"', '"ignore"'))
    with TagStore(path) as store:
        assert (store.states() == UNKNOWN).all()
        store.edit([Change(0, 2, PRESENT)])
    first, second = (frame.tags for frame in Dataset.open(path).frames)
    assert (first, second) == (TagState(("jar",)), TagState(marker=TagMarker.IGNORE))


def test_marks_are_on_disk_and_leave_tags_and_the_other_lines_as_they_were(make_dataset: MakeDataset) -> None:
    path = make_dataset(3)
    file = path / "recordings" / "a" / "frames.jsonl"
    before = file.read_text().splitlines()
    tap, wrong, box = Tap("mug", 3, 4), Tap("mug", 9, 9, False), Box("jar", 1, 2, 8, 9)
    with TagStore(path) as store:
        assert store.edit([], marks=[MarkChange(1, tap), MarkChange(1, box), MarkChange(1, wrong)]).revision == 1
        assert store.changed_since(0) == (1, [1])
        assert Dataset.open(path).frames[1].marks == (tap, wrong, box)
        store.edit([Change(1, 0, PRESENT)])  # an edit of tags keeps the marks
        assert store.frame(1).marks == (tap, box, wrong) and store.frame(1).tags.present == ("mug",)
        assert store.edit([], marks=[MarkChange(1, tap)]).revision == 2, "it is drawn already"
        store.edit([], marks=[MarkChange(1, tap, False), MarkChange(1, wrong, False), MarkChange(1, wrong, False)])
        store.edit([Change(1, 0, UNKNOWN)], marks=[MarkChange(1, box, False)])
    assert file.read_text().splitlines() == before


def test_marks_of_two_taggers_are_both_kept(make_dataset: MakeDataset) -> None:
    path = make_dataset(1)
    with TagStore(path) as store:
        store.edit([], marks=[MarkChange(0, Tap("mug", 1, 1))], seen=0, tagger="ann")
        store.edit([], marks=[MarkChange(0, Tap("mug", 2, 2)), MarkChange(0, Tap("mug", 7, 7), False)], seen=0)
    assert Dataset.open(path).frames[0].marks == (Tap("mug", 1, 1), Tap("mug", 2, 2))


@pytest.mark.parametrize(
    "mark", [Tap("mugg", 1, 1), Tap("mug", -1, 1), Box("mug", 3, 1, 3, 4), Box("mug", 0, 5, 4, 4)], ids=str
)
def test_a_mark_that_cannot_be_drawn_is_refused(make_dataset: MakeDataset, mark: Tap | Box) -> None:
    with TagStore(make_dataset(1)) as store:
        with pytest.raises(UsageError, match=r"unknown class|with pixels of the image"):
            store.edit([Change(0, 0, PRESENT)], marks=[MarkChange(0, mark)])
        with pytest.raises(UsageError, match=r"a frame below 1, found 1"):
            store.edit([], marks=[MarkChange(1, Tap("mug", 1, 1))])
        assert store.revision == 0
