"""A region model on a small dataset: its masks, its file, repeats, what is kept, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.region_runs import CLASSES, SIZE, tiny_settings, write_boxes
from safetensors.torch import load_file

from deal_core.dataset.dataset import Dataset
from deal_core.errors import ConfigError
from deal_core.models.model_file import load_model, read_info
from deal_core.models.region_mil import RegionMil
from deal_core.regions import training
from deal_core.regions.figures import RegionFigures
from deal_core.regions.training import RegionResult, train_regions


def test_the_model_file_has_backbone_heads_and_figures(trained: RegionResult) -> None:
    model = load_model(trained.model)
    info = model.info
    assert isinstance(model.network, RegionMil) and info.names_regions and not info.is_segmenter
    assert (info.input_size, info.threshold.value, info.threshold.rule) == (SIZE, 0.5, "argmax")
    assert info.arguments["members"] == 2 and tuple(info.arguments["levels"]) == trained.figures.levels
    assert info.training["frames"] == 16 and info.training["segments"] == 8
    assert RegionFigures.from_json(info.training["regions"]) == trained.figures


def test_the_figures_count_segments(trained: RegionResult) -> None:
    figures = trained.figures
    assert figures.frames_without_regions == 0 and figures.regions_per_frame >= 3
    assert [one.name for one in figures.classes] == list(CLASSES)
    assert [(one.present_segments, one.absent_segments) for one in figures.classes] == [(5, 3), (6, 2), (5, 3)]
    assert figures.compared.keys() == {"-3", "-2"} and figures.levels == (-3,)
    assert all(one.found is not None and one.spread is not None for one in figures.classes)
    assert len(figures.warnings) == 3 and all("absent in" in text for text in figures.warnings)


def test_the_same_settings_give_the_same_file(boxes: Path, trained: RegionResult, tmp_path: Path) -> None:
    again = train_regions(tiny_settings(boxes, tmp_path / "again"))
    assert again.model.read_bytes() == trained.model.read_bytes()


def test_another_run_computes_no_features_again(
    boxes: Path, trained: RegionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a frame was computed again")

    monkeypatch.setattr("deal_core.regions.cache.region_features", fail)
    before = trained.model.read_bytes()
    train_regions(tiny_settings(boxes, trained.model.parent))
    assert trained.model.read_bytes() == before


def test_damaged_and_foreign_features_are_made_again(boxes: Path, tmp_path: Path) -> None:
    first = train_regions(tiny_settings(boxes, tmp_path / "run"))
    content = first.model.read_bytes()
    for file in (tmp_path / "run" / "features").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:50])
    assert train_regions(tiny_settings(boxes, tmp_path / "run")).model.read_bytes() == content
    other = tiny_settings(boxes, tmp_path / "run", seed=12)  # another random backbone
    train_regions(other)
    assert len(list((tmp_path / "run" / "features").iterdir())) == 2


def test_only_the_levels_in_use_are_in_the_file(boxes: Path, tmp_path: Path) -> None:
    network = {"arguments": {"backbone": "test_resnet"}, "levels": [[0]]}
    result = train_regions(tiny_settings(boxes, tmp_path / "run", network=network))
    with_all = {"arguments": {"backbone": "test_resnet"}, "levels": [[-1]]}
    more = train_regions(tiny_settings(boxes, tmp_path / "more", network=with_all))
    assert len(load_file(result.model)) < len(load_file(more.model))
    assert result.figures.levels == (0,) and load_model(result.model).network is not None


def test_progress_counts_frames(boxes: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    train_regions(tiny_settings(boxes, tmp_path / "run"), lambda done, total: seen.append((done, total)))
    assert seen == [(done, 16) for done in range(1, 17)]


def test_a_dataset_without_depth_is_refused(tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "flat", segments=2, depth=False)
    with pytest.raises(ConfigError, match="no frame has a region"):
        train_regions(tiny_settings(path, tmp_path / "run"))
    dataset = Dataset.open(path)
    without = Dataset(path, dataset.classes, [replace(frame, depth=None) for frame in dataset.frames])
    with pytest.raises(ConfigError, match=r"no depth.*deal depth"):
        training.check_learnable(without)


def test_one_segment_is_refused(tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "one", segments=1)
    with pytest.raises(ConfigError, match=r"at least two segments.*found 1"):
        train_regions(tiny_settings(path, tmp_path / "run"))


def test_tags_without_absent_classes_are_refused(tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "partial", segments=2, complete=False)
    with pytest.raises(ConfigError, match=r"no class is tagged absent.*complete"):
        train_regions(tiny_settings(path, tmp_path / "run"))


def test_settings_are_kept_and_the_output_must_be_a_folder(boxes: Path, trained: RegionResult, tmp_path: Path) -> None:
    assert "members: 2" in (trained.model.parent / "settings.yaml").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        train_regions(tiny_settings(boxes, tmp_path / "file"))


def test_an_own_argument_of_the_training_is_refused(boxes: Path, tmp_path: Path) -> None:
    network = {"arguments": {"backbone": "test_resnet", "members": 3}}
    with pytest.raises(ConfigError, match="members"):
        train_regions(tiny_settings(boxes, tmp_path / "run", network=network))


def test_info_is_read_without_weights(trained: RegionResult) -> None:
    assert read_info(trained.model).architecture == "region_mil"


def test_probabilities_are_finite(trained: RegionResult) -> None:
    network = load_model(trained.model).network
    assert all(np.isfinite(tensor.numpy()).all() for tensor in network.state_dict().values())
