"""Synthetic recordings on disk: the same bytes, read back as the recorder's own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.paths import PROJECT

pytest.importorskip("embreex", reason="embreex (extra 'train') renders the scenes")
pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from deal_core.errors import RecordingError
from deal_core.recording.reader import open_recording
from deal_core.synthetic.recording import SyntheticConfig, render_scenes, write_recording

CONFIG = SyntheticConfig(seed=2, scenes=4, frames_per_scene=3, width=96, height=72, min_visible=0.03)
COLOR, DEPTH = "/camera/camera/color/image_raw", "/camera/camera/aligned_depth_to_color/image_raw"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "table"
    write_recording(path, CONFIG)
    return path


def test_the_same_seed_gives_the_same_bytes_in_another_process(recording, tmp_path):
    script = (
        "import sys; from pathlib import Path; from deal_core.synthetic.recording import *; "
        "write_recording(Path(sys.argv[1]), SyntheticConfig(seed=int(sys.argv[2]), scenes=4, frames_per_scene=3, "
        "width=96, height=72, min_visible=0.03))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(PROJECT)}
    for folder, seed in (("same", 2), ("other", 3)):
        path = tmp_path / folder / "table"
        subprocess.run([sys.executable, "-c", script, str(path), str(seed)], check=True, env=environment)
    assert len(digests(recording)) == CONFIG.frames + 2
    assert digests(tmp_path / "same" / "table") == digests(recording)
    other = digests(tmp_path / "other" / "table")
    mine = digests(recording)
    assert not {other[name] for name in other if name != "metadata.yaml"} & set(mine.values())


def test_it_reads_back_as_a_recording(recording):
    frames = list(render_scenes(CONFIG))
    bag = open_recording(recording)
    try:
        received = {topic: list(bag.messages([topic])) for topic in (COLOR, DEPTH, "/deal/tags", "/deal/session")}
    finally:
        bag.close()
    assert len(received[COLOR]) == len(received[DEPTH]) == CONFIG.frames
    for message, frame in zip(received[COLOR], frames, strict=True):
        assert bytes(message.data).endswith(frame.pair.color.tobytes())
    for message, frame in zip(received[DEPTH], frames, strict=True):
        assert frame.pair.depth_mm.tobytes() in bytes(message.data)
    tags = [json.loads(bytes(m.data)[8:].rstrip(b"\0")) for m in received["/deal/tags"]]
    # A person who says what is visible, at each new table and whenever that changes.
    expected, previous = [], None
    for frame in frames:
        if (frame.scene, frame.tags) != previous:
            expected.append((frame.pair.stamp_ns, list(frame.tags.present), "complete"))
        previous = (frame.scene, frame.tags)
    assert [(t["stamp_ns"], t["present"], t["marker"]) for t in tags] == expected
    assert CONFIG.scenes <= len(tags) < CONFIG.frames
    session = json.loads(bytes(received["/deal/session"][0].data)[8:].rstrip(b"\0"))
    assert [c["name"] for c in session["classes"]] == list(CONFIG.classes.names)
    assert session["synthetic"]["seed"] == CONFIG.seed


def test_ground_truth_lies_beside_the_bag(recording):
    for frame in render_scenes(CONFIG):
        drawn = cv2.imread(str(recording / "ground_truth" / f"{frame.pair.stamp_ns}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(drawn, frame.mask)


def test_an_existing_recording_is_replaced_only_when_asked(tmp_path):
    path, small = tmp_path / "table", replace(CONFIG, scenes=1, frames_per_scene=1)
    write_recording(path, small)
    before = digests(path)
    with pytest.raises(RecordingError, match="exists already"):
        write_recording(path, small)
    write_recording(path, replace(small, seed=9), overwrite=True)
    assert digests(path) != before
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_replacement_leaves_the_old_recording(tmp_path, error):
    def fail():
        yield next(render_scenes(small))
        raise error

    path, small = tmp_path / "table", replace(CONFIG, scenes=1, frames_per_scene=1)
    write_recording(path, small)
    before = digests(path)
    with pytest.raises(error):
        write_recording(path, small, fail(), overwrite=True)
    assert digests(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


def test_only_recordings_are_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    for path in (folder, folder / "chapter.txt"):
        with pytest.raises(RecordingError, match="is not a recording"):
            write_recording(path, CONFIG, overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"
