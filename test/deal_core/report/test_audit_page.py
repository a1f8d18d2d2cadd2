"""The page and the section about an audit."""

from __future__ import annotations

from pathlib import Path

from helpers.region_runs import write_boxes

from deal_core.audit.result import Audit, ClassFacts, NextFrame, PlaceShortcut, WrongTag, WrongTags
from deal_core.dataset.dataset import Dataset
from deal_core.report.audit_page import render_audit, write_audit_page


def made_up(dataset: Dataset, wrong: WrongTags) -> Audit:
    keys = [frame.key for frame in dataset.frames]
    return Audit(
        "a <kitchen>",
        4,
        2,
        (ClassFacts("red", 1, 1, 0.91, None),),
        wrong,
        (PlaceShortcut("red", 0.97, (keys[0],)),),
        ("a note",),
        ("red: more scenes",),
        (NextFrame(keys[3], "boxes", 1, ("blue",), False), NextFrame("gone/1", "gone", 0, ("red",), True)),
    )


def test_the_page_shows_each_tag_with_its_pictures_and_loads_nothing(tmp_path: Path) -> None:
    dataset = Dataset.open(write_boxes(tmp_path / "boxes", segments=2, frames=2))
    keys = tuple(frame.key for frame in dataset.frames)
    wrong = WrongTags((WrongTag("red", "present", "boxes", 0, keys[:2], 0.93),), 12, 1.5, 0.93, 0.62)
    write_audit_page(made_up(dataset, wrong), dataset, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "a &lt;kitchen&gt;" in page and "<kitchen>" not in page
    assert "<b>red</b> is tagged present · probably wrong: 93 %" in page and "estimated recall 62 %" in page
    assert "The place gives red away" in page and "a note" in page and "Record next: red: more scenes" in page
    assert f"tag {keys[3]}, for blue" in page and "look at gone/1, for red" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=") == 4


def test_without_a_list_or_a_dataset_the_section_says_so(tmp_path: Path) -> None:
    dataset = Dataset.open(write_boxes(tmp_path / "boxes", segments=2, frames=2))
    unknown = render_audit(made_up(dataset, WrongTags((), 12, None, None, None)), None)
    assert "Not looked for" in unknown and "<img" not in unknown
    assert "None listed: about 2 of 12" in render_audit(made_up(dataset, WrongTags((), 12, 1.6, None, 0.0)), dataset)
