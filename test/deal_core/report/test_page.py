"""The report: what is on the page, that it needs no network, and what it does without this or that."""

import json
import math
import re
import sys
from html.parser import HTMLParser
from subprocess import run as run_process

import numpy as np
import pytest

from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.picture_folder import PictureWriter
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import predict_mask
from deal_core.quality.verdict import ClassVerdict, Finding, Verdict
from deal_core.report.charts import Line, line_chart, smooth
from deal_core.report.page import read_history, read_run, render_report, write_report
from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "drill"), ((200, 30, 30), (30, 30, 200)))
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects addresses and text, and checks that every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text, self.tags, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def make_run(folder, name, seed, *, quality=0.8, history=True, pictures=True, direct=False, classes=CLASSES):
    rng = np.random.default_rng(seed)
    sweep, auto, oracle = ThresholdSweep(len(classes)), MaskEvaluator(len(classes)), MaskEvaluator(len(classes))
    frames = []
    for index in range(3):
        truth = np.zeros((24, 32), np.uint8)
        truth[4:16, 4 + index : 14] = 1
        truth[8:20, 18:28] = 2
        scores = np.stack([truth == k + 1 for k in range(len(classes))]) * quality
        scores = np.clip(scores + rng.random(scores.shape) * 0.3, 0, 1)
        sweep.update(scores, None, truth)
        frames.append((f"{name}/{index}" if "<" in name else f"kitchen/{index}", scores, truth))
    best = sweep.best().threshold
    for key, scores, truth in frames:
        auto.update(predict_mask(scores, None, 0.5), truth, key)
        oracle.update(predict_mask(scores, None, best), truth, key)
    result = EvaluationResult(
        name,
        "kitchen",
        classes,
        len(frames),
        None if direct else oracle.score(classes, rule="oracle", threshold=best),
        auto.score(classes, rule="argmax" if direct else "otsu", threshold=None if direct else 0.5),
        None if direct else sweep.curve(),
        tuple(auto.frames),
        {"seed": seed},
    )
    result.write(folder)
    if history:
        rows = [
            {"step": s, "epoch": s // 9, "loss": 1 / (s + 1), "loss_deal": -s / 99, "deal_flat": 0.7, "note": "x"}
            for s in range(60)
        ]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if pictures:
        image = rng.integers(0, 255, (24, 32, 3), np.uint8)
        with PictureWriter(folder, classes) as writer:
            for (key, scores, truth), frame in zip(frames, result.per_frame, strict=True):
                writer.add(
                    key,
                    frame.iou,
                    image=image,
                    prediction=predict_mask(scores, None, 0.5),
                    truth=truth,
                    depth=np.where(truth > 0, 0.5, 1.0).astype(np.float32),
                    scores=scores,
                )
    return folder


def page_of(*folders, **options):
    return render_report([read_run(folder) for folder in folders], **options)


def test_verdicts_without_masks_are_told_for_each_run_and_class(tmp_path):
    base = make_run(tmp_path / "base", "Tags only", 11)
    deal = make_run(tmp_path / "deal", "DEAL", 11)
    assert "Is it good enough?" not in Page(page_of(base, deal)).words, "no run was judged"
    lost = Finding("missing", "bad", "99 % of the tagged frames have no pixel of it", "use `deal regions`")
    low = Finding("threshold", "doubtful", "the threshold 0.00 (otsu) is at the end of its range", "train longer")
    classes = (ClassVerdict("mug", "bad", 0.01, (lost,)), ClassVerdict("drill", "good", 0.8))
    Verdict("bad", 0.42, (low,), classes, 40).write(deal)
    page = Page(page_of(base, deal))
    for said in ("Is it good enough?", "score 0.42", lost.text, low.text, "Use `deal regions`.", "good 0.80"):
        assert said in page.words, said
    assert "quality" in page.ids
    assert page.sources == [source for source in page.sources if source.startswith(("data:", "#"))]
    both = Verdict("good", 0.9, (), (), 40)
    both.write(base)
    assert "Nothing to complain about." in Page(page_of(base, deal)).words


def test_two_runs_stand_side_by_side_with_their_figures(tmp_path):
    base = make_run(tmp_path / "base", "Tags only", 11, quality=0.3)
    deal = make_run(tmp_path / "deal", "DEAL", 11)
    text = page_of(base, deal)
    page = Page(text)
    for folder in (base, deal):
        evaluation = EvaluationResult.read(folder)
        for figure in (evaluation.auto.miou, evaluation.oracle.miou, evaluation.auto.boundary_f):
            assert f"{100 * figure:.1f}" in page.words
    gain = 100 * (EvaluationResult.read(deal).auto.miou - EvaluationResult.read(base).auto.miou)
    assert f"+{gain:.1f}" in page.words
    assert "Segmentation on kitchen" in page.words
    assert "mug" in page.words
    # Two figures, two training charts (deal_flat is drawn within loss_deal); image, depth, edges and truth of a
    # frame once, CAM and prediction for each run.
    assert page.tags.count("svg") == 4
    assert len([s for s in page.sources if s.startswith("data:")]) == 3 * (4 + 2 * 2)


def test_the_section_about_the_tags_is_on_the_page_as_it_is(tmp_path):
    run = make_run(tmp_path / "run", "DEAL", 11)
    section = "<section><h2>Are the tags right?</h2></section>"
    assert section in page_of(run, audit=section) and "Are the tags right?" not in page_of(run)


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    text = page_of(make_run(tmp_path / "a", "A", 1), make_run(tmp_path / "b", "B", 2))
    page = Page(text)
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    # What is left of addresses are the names of XML namespaces, which nobody fetches.
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in text


def test_the_page_is_the_same_every_time(tmp_path):
    run = make_run(tmp_path / "a", "A", 1)
    assert page_of(run) == page_of(run)


def test_a_run_without_history_and_pictures_still_has_a_report(tmp_path):
    bare = make_run(tmp_path / "bare", "bare", 1, history=False, pictures=False)
    full = make_run(tmp_path / "full", "full", 1)
    page = Page(page_of(bare))
    assert page.tags.count("svg") == 2
    assert "Training" not in page.words
    assert "Pictures" not in page.words
    both = Page(page_of(bare, full))
    assert "Training" in both.words
    assert "Pictures" in both.words


def test_a_network_without_threshold_beside_one_with(tmp_path):
    student = make_run(tmp_path / "student", "student", 1, direct=True)
    cams = make_run(tmp_path / "cams", "cams", 1)
    for order in ((student, cams), (cams, student), (student,)):
        words = Page(page_of(*order)).words
        assert "argmax" in words
        assert "nan" not in words.lower().split()


def test_a_run_in_which_nothing_was_labelled_says_so(tmp_path):
    EvaluationResult("empty", "kitchen", CLASSES, 0).write(tmp_path)
    words = Page(page_of(tmp_path)).words
    assert "no pixel is labelled" in words
    evaluator = MaskEvaluator(2)
    evaluator.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), "x")
    score = evaluator.score(CLASSES, rule="otsu", threshold=0.5)
    EvaluationResult("ignored", "kitchen", CLASSES, 1, auto=score, per_frame=tuple(evaluator.frames)).write(tmp_path)
    assert "nan" not in Page(page_of(tmp_path)).words


def test_seeds_of_one_name_are_summarised(tmp_path):
    runs = [make_run(tmp_path / str(seed), "DEAL", seed, quality=0.2 + seed / 100) for seed in (11, 42, 55)]
    mious = [EvaluationResult.read(run).auto.miou for run in runs]
    words = Page(page_of(*runs)).words
    assert f"{100 * np.mean(mious):.1f} ± {100 * np.std(mious, ddof=1):.1f}" in words
    assert "DEAL · seed 42" in words
    assert "Over seeds" not in Page(page_of(runs[0])).words


def test_runs_over_other_classes_get_dashes(tmp_path):
    other = ClassList(("mug", "saw"))
    words = Page(page_of(make_run(tmp_path / "a", "A", 1), make_run(tmp_path / "b", "B", 1, classes=other))).words
    assert "saw" in words
    assert "drill" in words


def test_names_cannot_break_out_of_the_page(tmp_path):
    name = '<script>alert("x")</script>'
    classes = ClassList(("<b>mug", "drill"))
    text = page_of(make_run(tmp_path / "a", name, 1, classes=classes), title="<i>&</i>")
    assert name not in text
    assert "<b>mug" not in text
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "<b>mug" in page.words


def test_a_frame_seen_by_one_run_only_is_shown_for_that_one(tmp_path):
    base, deal = make_run(tmp_path / "base", "base", 1, pictures=False), make_run(tmp_path / "deal", "deal", 1)
    page = Page(page_of(base, deal))
    assert len([s for s in page.sources if s.startswith("data:")]) == 3 * 6


def test_history_keeps_the_later_of_two_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": 2, "lr": 0.1}\n\n{"step": 1, "loss": 1}\n{"step": 3, "lo'
    )
    history = read_history(path)
    np.testing.assert_array_equal(history.series["loss"][0], [1, 2])
    np.testing.assert_array_equal(history.series["loss"][1], [1, 2])
    np.testing.assert_array_equal(history.series["lr"], [[2], [0.1]])
    assert set(history.series) == {"loss", "lr"}


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1}', '{"step": "x"}', "7"])
def test_a_broken_history_names_its_line(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(EvaluationError, match=re.escape(f"{path}, line 2")):
        read_history(path)


def test_no_history_is_none(tmp_path):
    assert read_history(tmp_path / "history.jsonl") is None
    (tmp_path / "history.jsonl").write_text("")
    assert read_history(tmp_path / "history.jsonl") is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="deal evaluate"):
        read_run(tmp_path)
    with pytest.raises(EvaluationError, match="at least one run"):
        write_report([], tmp_path / "report.html")


def test_a_picture_that_is_none_is_named(tmp_path):
    run = make_run(tmp_path / "a", "A", 1)
    (run / "pictures" / "0_image.png").write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match=re.escape("0_image.png")):
        write_report([read_run(run)], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_large_pictures_are_embedded_small(tmp_path):
    run = make_run(tmp_path / "a", "A", 1, pictures=False)
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (48, 64, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
    with PictureWriter(run, CLASSES) as writer:
        writer.add("kitchen/0", 0.5, image=image, prediction=np.zeros(image.shape[:2], np.uint8))
    sizes = [len(source) for source in Page(page_of(run)).sources]
    assert max(sizes) < 60_000


def test_a_chart_takes_the_page_s_colour_and_no_id_twice():
    lines = [Line(np.arange(5.0), np.array([1, np.nan, 3, 2, 5]), "#2f80d8")]
    first = line_chart(lines, x_label="step", y_label="loss & more", name='a "<chart>"')
    second = line_chart(lines, x_label="step", y_label="loss", name="b")
    assert "currentColor" in first
    assert "#2f80d8" in first
    assert "<?xml" not in first
    page = Page(f"<div>{first}{second}</div>")
    assert len(page.ids) == len(set(page.ids))


def test_smoothing_follows_the_mean_and_skips_nan():
    np.testing.assert_allclose(smooth(np.full(9, 2.0), 4), np.full(9, 2.0))
    noisy = np.tile([0.0, 2.0], 100)
    assert abs(smooth(noisy, 40)[-1] - 1) < 0.1
    assert smooth(np.array([np.nan, 1.0, np.nan]), 3)[1:].tolist() == [1.0, 1.0]
    assert math.isnan(smooth(np.array([np.nan, 1.0]), 3)[0])


def test_matplotlib_is_loaded_only_when_something_is_drawn():
    code = "import sys, deal_core.report.page; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
