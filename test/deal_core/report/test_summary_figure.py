"""The summary figure: its size, its cells, and what is refused."""

import numpy as np
import pytest
from helpers.pictures import CLASSES, scene
from PIL import Image

from deal_core.report.summary_figure import SummaryFrame, SummaryRun, summary_figure


@pytest.mark.slow
@pytest.mark.parametrize("limit", [60_000, 120_000])
def test_summary_figure_keeps_to_its_size(tmp_path, limit):
    image, mask, depth, _ = scene()
    frames = [SummaryFrame(image, depth, mask, [mask * 0, mask])] * 3
    runs = [SummaryRun("Tags only", 0.441), SummaryRun("DEAL", 0.51)]
    path = summary_figure(tmp_path / "docs" / "summary.png", frames, runs, CLASSES, title="Summary", max_bytes=limit)
    assert path.stat().st_size <= limit
    with Image.open(path) as picture:
        wide, high = picture.size
        columns = 5
        assert wide / high == pytest.approx(columns * 1.95 / (3 * 1.475 + 1.3), rel=0.1)
        # The prediction of the first run is empty, that of the second is not.
        cells = np.asarray(picture.convert("RGB")).astype(int)
    legend = cells[int(high * 0.85) :].reshape(-1, 3)
    assert all(np.abs(legend - color).max(axis=1).min() <= 4 for color in CLASSES.colors)
    reddish = (cells[..., 0] > cells[..., 1] + 80) & (cells[..., 0] > cells[..., 2] + 80)
    column = wide / columns
    first, last = 2, 3
    body = slice(high // 4, int(high * 0.85))
    assert reddish[body, int(last * column) : int((last + 1) * column)].sum() > 200
    assert reddish[body, int(first * column) : int((first + 1) * column)].sum() < 20
    assert [p.name for p in path.parent.iterdir()] == ["summary.png"]


def test_a_summary_with_a_missing_prediction_is_refused(tmp_path):
    image, mask, depth, _ = scene()
    with pytest.raises(ValueError, match="expected 2 predictions"):
        summary_figure(
            tmp_path / "x.png",
            [SummaryFrame(image, depth, mask, [mask])],
            [SummaryRun("a", 0), SummaryRun("b", 0)],
            CLASSES,
        )
    with pytest.raises(ValueError, match="at least one frame"):
        summary_figure(tmp_path / "x.png", [], [], CLASSES)
