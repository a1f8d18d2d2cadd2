"""`deal audit`, its file in `deal tag` and `deal report`, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.region_runs import write_boxes

from deal_core.audit.result import Audit, WrongTag, WrongTags
from deal_core.errors import UsageError
from deal_core.tagging.store import TagStore

Deal = Callable[..., Any]
TINY = ("--backbone", "test_resnet", "--weights", "none", "--device", "cpu")


@pytest.mark.slow
def test_an_audit_is_printed_written_and_shown(deal: Deal, tmp_path: Path) -> None:
    data = write_boxes(tmp_path / "boxes", segments=12, frames=1)
    file, page = tmp_path / "audit.json", tmp_path / "audit.html"
    done = deal("audit", data, *TINY, "--out", file, "--page", page, "--json", "--features", tmp_path / "features")
    assert done.returncode == 0, done.stderr
    found = Audit.read(file)
    assert json.loads(done.stdout) == json.loads(file.read_text()) and found.frames == 12
    text = page.read_text()
    assert "Tags that look wrong" in text and "http" not in text.replace("http-equiv", "")
    done = deal("audit", data, *TINY, "--features", tmp_path / "features")
    assert done.returncode == 0 and "told by the place" in done.stdout and "red" in done.stdout


def test_outputs_that_would_replace_frames_and_unknown_arguments_are_refused(deal: Deal, tmp_path: Path) -> None:
    data = write_boxes(tmp_path / "boxes", segments=2, frames=1)
    frame = next((data / "recordings" / "boxes" / "color").iterdir())
    assert deal("audit", data, *TINY, "--out", frame).returncode == 2
    for given, said in (("levels=[1]", "expected mean="), ("mean=[", "cannot be read"), ("scale=x", "scale")):
        done = deal("audit", data, *TINY, "--network", given)
        assert done.returncode in (1, 2) and said in done.stderr, done.stderr
    assert deal("tag", data, "--audit", frame, "--export", tmp_path / "tags.csv").returncode == 2


def test_the_page_of_tags_gets_the_suspects_by_frame(tmp_path: Path) -> None:
    from training.commands.tag import _suspects

    data = write_boxes(tmp_path / "boxes", segments=3, frames=2)
    with TagStore(data) as store:
        keys = tuple(frame.key for frame in store.frames[2:4])
        audit = _audit(
            WrongTag("green", "absent", "boxes", 1, keys, 0.9), WrongTag("red", "present", "boxes", 1, keys[:1], 0.8)
        )
        audit.write(tmp_path / "audit.json")
        assert _suspects(tmp_path / "audit.json", store) == {2: [1, 0], 3: [1]}
        _audit(WrongTag("green", "absent", "other", 1, ("other/1",), 0.9)).write(tmp_path / "audit.json")
        with pytest.raises(UsageError, match="audit of another dataset"):
            _suspects(tmp_path / "audit.json", store)


def _audit(*tags: WrongTag) -> Audit:
    return Audit("boxes", 6, 3, (), WrongTags(tags, 18, 1.0, 0.9, 1.0), (), (), (), ())
