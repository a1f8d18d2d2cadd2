"""A region model that starts from an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.region_runs import tiny_settings, write_boxes

from deal_core.errors import ConfigError
from deal_core.models.model_file import load_model
from deal_core.regions.bags import join_bags, make_bags
from deal_core.regions.training import RegionResult, train_regions


@pytest.fixture(scope="module")
def new_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes of the same colours, whose classes stand in another order, and one more class that is never seen."""
    return write_boxes(tmp_path_factory.mktemp("boxes") / "new", segments=4, classes=("blue", "violet", "red", "green"))


def test_heads_begin_as_those_of_the_model_and_the_report_compares_them(
    trained: RegionResult, boxes: Path, new_boxes: Path, tmp_path: Path
) -> None:
    before = load_model(trained.model)
    start = {"init_from": trained.model, "network": {}, "head": {"steps": 1, "learning_rate": 1e-9}}
    settings = tiny_settings(new_boxes, tmp_path / "run", **start, max_loss_on_old=0.2)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"rehearse": (boxes, 0.5)})})
    result = train_regions(settings)
    after, report = load_model(result.model), result.report
    assert after.info.classes.names == ("blue", "violet", "red", "green")
    assert after.info.arguments["levels"] == before.info.arguments["levels"] and after.info.arguments["members"] == 2
    for name in ("feature_mean", "feature_std"):
        assert torch.equal(getattr(after.network, name), getattr(before.network, name))
    for old, new in ((0, 0), (1, 3), (2, 4), (3, 1)):  # none, red, green, blue
        torch.testing.assert_close(after.network.weight[:, new], before.network.weight[:, old], atol=1e-7, rtol=0)
    assert not after.network.weight[:, 2].abs().max() > 1e-7, "a new class starts as in a new network"
    assert report is not None and report.old is not None and report.classes.new == ("violet",)
    assert report.old.change == pytest.approx(0, abs=0.2) and set(report.new.shared) == {"blue", "red", "green"}
    assert json.loads((tmp_path / "run" / "fine_tune.json").read_text()) == report.to_json()


def test_a_region_model_learns_on_from_an_earlier_one(trained: RegionResult, new_boxes: Path, tmp_path: Path) -> None:
    settings = tiny_settings(new_boxes, tmp_path / "run", init_from=trained.model, network={}, head={"steps": 30})
    report = train_regions(settings).report
    assert report is not None and report.old is None and report.new.mean_after is not None
    assert report.new.mean_after >= 0.9


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network": {"levels": [[-1]]}}, "which network.levels does not list: set network=null"),
        ({"network": {}, "head": {"members": 3}}, "has 2 heads, and head.members is 3"),
        ({"max_loss_on_old": 0.1}, "max_loss_on_old needs data.rehearse"),
    ],
)
def test_settings_that_contradict_the_model_are_refused(
    trained: RegionResult, new_boxes: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        train_regions(tiny_settings(new_boxes, tmp_path / "run", init_from=trained.model, **changes))


def test_joined_bags_are_the_bags_of_both(trained: RegionResult, boxes: Path) -> None:
    from deal_core.dataset.dataset import Dataset
    from deal_core.regions.cache import frame_regions

    network, frames = load_model(trained.model).network, Dataset.open(boxes)
    parts = [frames.subset(predicate=lambda f, side=side: (f.segment < 3) == side) for side in (True, False)]
    size, folder = (72, 96), trained.model.parent / "joined"
    found = [frame_regions(network, part, size, folder, arguments={}) for part in (*parts, frames)]  # type: ignore[arg-type]
    one, two, whole = (make_bags(each, part) for each, part in zip(found, (*parts, frames), strict=True))
    joined = join_bags(one, two)
    for name in ("features", "frame", "votes", "tags", "segments", "links"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
