"""What is planned: settings of every run, options that do not go together, folders that are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import make_coco, make_hope, make_voc
from helpers.paths import PROJECT

from deal_core.errors import ConfigError, DatasetError, UsageError
from deal_core.experiments.definitions import BENCHMARKS, cam_recipe, synthetic_scenes
from deal_core.experiments.plan import ExperimentOptions, Plan, check_data, claim_folder, make_plan
from deal_core.settings_file import load_settings
from deal_core.trainer.settings import TrainSettings

PRESETS = PROJECT / "config" / "experiments"


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def hope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hope(tmp_path_factory.mktemp("hope"))


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    about = {"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 1e-4, "model": "none"}
    (folder / "depth.json").write_text(json.dumps(about))
    return folder


def planned(benchmark: str, data: Path, **options: Any) -> Plan:
    return make_plan(ExperimentOptions(benchmark, data, Path("runs"), PRESETS, **options))


def test_voc_is_the_papers_table(voc: Path, depth: Path) -> None:
    plan = planned("voc", voc, depth=depth)
    check_data(plan)
    assert len(plan.runs) == 2 * 4 * 4 and len({run.key for run in plan.runs}) == 32
    # One seed after another: an early look compares all variants.
    assert [run.settings.seed for run in plan.runs[::8]] == [11, 42, 55, 128]
    assert plan.parts == ("train", "val")
    weights = {
        (run.model, run.variant.name): (run.settings.deal.weight, run.settings.isl.weight, run.settings.fsl.weight)
        for run in plan.runs
    }
    default = TrainSettings.model_validate({"data": {"path": "x"}, "output": "y"}).deal.weight
    for model in ("weaktr", "seam"):
        assert weights[model, "baseline"] == (0, 0, 0)
        assert weights[model, "deal"] == (default, 0, 0)
        assert weights[model, "isl-fsl"] == (0, 0.2, 1.0)
        assert weights[model, "deal+isl-fsl"] == (default, 0.2, 1.0)
    for run in plan.runs:
        assert run.settings.data.depth == depth.absolute() and run.settings.data.split == "train_aug"
        assert run.folder == Path.cwd() / "runs" / run.key
        assert load_settings(TrainSettings, run.preset, run.overrides) == run.settings
    train, val = plan.runs[0].evaluations
    expected = ["--scales", "1.0,1.2", "--device", "auto", "--as", "voc", "--split", "train", "--size", "image"]
    expected += ["--normalise", "min_max", "--depth", str(depth), "--threshold-rule", "depth_relief"]
    assert list(train.arguments) == expected and train.threshold_of is None
    # The threshold of the validation images comes from the training images; their depth is not needed.
    assert val.threshold_of == "train" and not {"--depth", "--threshold-rule"} & set(val.arguments)
    assert "--split" in val.arguments and val.arguments[val.arguments.index("--split") + 1] == "val"
    assert "0.5,1.0,1.5,2.0" in plan.runs[-1].evaluations[0].arguments


def test_parts_that_are_asked_for(voc: Path, depth: Path) -> None:
    short = {"models": ["seam"], "seeds": [3], "variants": ["baseline"], "depth": depth}
    assert planned("voc", voc, val=False, **short).parts == ("train",)
    assert planned("voc", voc, full_train=True, **short).parts == ("train", "full_train", "val")
    plan = planned("voc", voc, scales=(0.5,), **short)
    assert plan.runs[0].evaluations[0].arguments[:2] == ("--scales", "0.5")


def test_hope_takes_the_sensors_depth_unless_it_is_told(hope: Path, depth: Path) -> None:
    plan = planned("hope", hope, seeds=[11])
    assert [run.variant.name for run in plan.runs] == ["baseline", "deal"]
    assert {run.settings.data.depth for run in plan.runs} == {None}
    plan = planned("hope", hope, depth=depth, seeds=[11])
    taken = {run.variant.name: run.settings.data.depth for run in plan.runs}
    assert taken == {"baseline": None, "deal": None, "deal-estimated": depth.absolute()}
    run = plan.runs[0]
    assert run.settings.data.split == "onboarding_static:up"
    assert [e.arguments[e.arguments.index("--split") + 1] for e in run.evaluations] == [
        "onboarding_static:up",
        "onboarding_static:down",
    ]


def test_coco_has_the_category_ids_of_weaktr_in_both_commands(depth: Path, tmp_path: Path) -> None:
    plan = planned("coco", make_coco(tmp_path), depth=depth, seeds=[11], full_train=True)
    check_data(plan)
    assert {run.model for run in plan.runs} == {"weaktr"} and plan.parts == ("train", "full_train", "val")
    assert {run.settings.fsl.weight for run in plan.runs if "fsl" in run.variant.name} == {0.2}
    run = plan.runs[0]
    assert run.settings.data.class_ids == "category"
    for evaluation in run.evaluations:
        assert evaluation.arguments[evaluation.arguments.index("--class-ids") + 1] == "category"
        assert ("--frames" in evaluation.arguments) == (evaluation.part == "train")


def test_overrides_are_for_all_or_for_one_network(voc: Path, depth: Path) -> None:
    plan = planned(
        "voc", voc, depth=depth, seeds=[11], overrides=["seam:epochs=5", "epochs=2", "seam:optimizer.momentum=0.9"]
    )
    assert {(run.model, run.settings.epochs) for run in plan.runs} == {("weaktr", 2), ("seam", 5)}
    assert {run.settings.optimizer.momentum for run in plan.runs if run.model == "seam"} == {0.9}
    # What a variant is without stays off.
    plan = planned("voc", voc, depth=depth, seeds=[11], overrides=["deal.weight=0.3"])
    assert {run.settings.deal.weight for run in plan.runs if run.variant.name in ("baseline", "isl-fsl")} == {0}
    assert {run.settings.deal.weight for run in plan.runs if "deal" in run.variant.name} == {0.3}


@pytest.mark.parametrize(
    ("benchmark", "options", "error", "said"),
    [
        ("vok", {}, UsageError, "Did you mean 'voc'"),
        ("voc", {"variants": ["dela"]}, UsageError, "unknown variant 'dela'.*Did you mean 'deal'"),
        ("voc", {"models": ["weektr"]}, UsageError, "unknown model 'weektr'.*Did you mean 'weaktr'"),
        ("voc", {"variants": ["deal-estimated"]}, UsageError, "unknown variant"),
        ("voc", {"depth": None}, UsageError, "voc has no depth.*--depth"),
        ("voc", {"depth": Path("nothing")}, DatasetError, "nothing"),
        ("voc", {"seeds": []}, UsageError, "--seeds.*found none"),
        ("voc", {"seeds": [1, 1]}, UsageError, "different"),
        ("voc", {"seeds": [-1]}, UsageError, "of at least 0"),
        ("voc", {"data": Path("nothing")}, DatasetError, "nothing"),
        ("voc", {"presets": Path("nothing")}, UsageError, "voc-weaktr.yaml"),
        ("voc", {"overrides": ["42"]}, UsageError, "given with commas: --seeds 11,42"),
        ("voc", {"overrides": ["sema:epochs=2"]}, UsageError, "model 'sema' is not one of the chosen models"),
        ("voc", {"overrides": ["seed=3"]}, ConfigError, "--seeds sets seed"),
        ("voc", {"overrides": ["seam:data.depth=x"]}, ConfigError, "--depth sets data.depth"),
        ("voc", {"overrides": ["epoch=3"]}, ConfigError, "Did you mean 'epochs'"),
        ("voc", {"overrides": ["deal.weight=0"]}, ConfigError, "deal.weight is 0, but variant 'deal'"),
        ("hope", {"variants": ["deal"]}, UsageError, "have sensor depth"),
        ("hope", {"variants": ["deal-estimated"], "depth": None}, UsageError, "needs estimated depth"),
        ("hope", {"full_train": True}, UsageError, "--full-train"),
    ],
)
def test_what_does_not_go_is_said_before_anything_runs(
    voc: Path,
    hope: Path,
    depth: Path,
    tmp_path: Path,
    benchmark: str,
    options: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    given = {"data": hope if benchmark == "hope" else voc, "depth": depth, "presets": PRESETS, **options}
    with pytest.raises(error, match=said):
        check_data(make_plan(ExperimentOptions(benchmark, out=tmp_path / "runs", **given)))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("model", ["weaktr", "seam"])
def test_every_preset_is_complete(name: str, model: str) -> None:
    settings = load_settings(TrainSettings, PRESETS / f"{name}-{model}.yaml")
    assert settings.model.name == model and settings.data.format == BENCHMARKS[name].format
    assert settings.deal.weight > 0 and settings.isl.weight == 0.2 and settings.fsl.weight > 0
    assert settings.data.validation_fraction == 0, "all images are trained on"
    recipe = cam_recipe(name, model)
    assert recipe.scales[0] == 1.0 or 1.0 in recipe.scales
    if name != "hope":
        assert (recipe.size, recipe.normalise) == (("model", "max") if name == "synthetic" else ("image", "min_max"))


def test_scenes_of_the_two_recordings_differ() -> None:
    scenes = synthetic_scenes(5, 3)
    assert scenes["train"].seed != scenes["test"].seed and (scenes["train"].scenes, scenes["test"].scenes) == (5, 3)


def test_a_folder_is_that_of_one_experiment(tmp_path: Path) -> None:
    claim_folder(tmp_path / "new", {"benchmark": "voc", "depth": None})
    claim_folder(tmp_path / "new", {"benchmark": "voc", "depth": None})
    with pytest.raises(UsageError, match=r"another experiment .*depth is None there and 'x' here"):
        claim_folder(tmp_path / "new", {"benchmark": "voc", "depth": "x"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="no experiment's folder"):
        claim_folder(tmp_path / "mine", {"benchmark": "voc"})
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "new" / "experiment.json").write_text("[")
    with pytest.raises(UsageError, match="cannot be read"):
        claim_folder(tmp_path / "new", {"benchmark": "voc", "depth": None})
