"""Settings of training: what is accepted and what is refused; config/train.yaml lists all of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from helpers.paths import CONFIG
from helpers.settings import refusal
from pydantic import BaseModel

from deal_core.models.cam_net import CamNet
from deal_core.models.segmenter import SegmenterNet
from deal_core.regions.settings import RegionTrainSettings
from deal_core.settings_file import dump_settings, load_settings
from deal_core.trainer.settings import DistillSettings, RunSettings, TrainSettings


def keys_of(kind: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted keys of all settings, groups expanded."""
    keys = set()
    for name, field in kind.model_fields.items():
        groups = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        group = next((a for a in groups if issubclass(a, BaseModel)), None)
        keys |= keys_of(group, f"{prefix}{name}.") if group else {prefix + name}
    return keys


def values_of(mapping: dict[str, Any], groups: set[str], prefix: str = "") -> dict[str, Any]:
    """The dotted keys of a YAML file with their values; only mappings in `groups` are expanded."""
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        key = prefix + name
        values.update(values_of(value, groups, f"{key}.") if key in groups else {key: value})
    return values


GROUPS = {"data", "model", "deal", "isl", "fsl", "taps", "optimizer", "clip"}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("epochs=0", "epochs"),
        ("epochs=many", "epochs"),
        ("epochs=1.5", "epochs"),
        ("epochs=yes", "epochs"),
        ("batch_size=[]", "batch_size"),
        ("seed=-1", "seed"),
        ("deal.weight=-0.1", "deal.weight"),
        ("deal.weight=on", "deal.weight"),
        ("deal.weight=.nan", "deal.weight"),
        ("deal.mu=.inf", "deal.mu"),
        ("deal.start=1.1", "deal.start"),
        ("deal.cam_value=relu", "deal.cam_value"),
        ("deal.size=[2, 2]", "deal.size"),
        ("deal.size=small", "deal.size"),
        ("deal=3", "deal"),
        ("deal.weight.x=3", "deal.weight"),
        ("data.path=3", "data.path"),
        ("data.image_size=[240, 320, 3]", "data.image_size"),
        ("data.image_size=[8, 8]", "data.image_size"),
        ("data.image_size=[no, 320]", "data.image_size"),
        ("data.crop_scale=[0, 1]", "data.crop_scale"),
        ("data.crop_scale=[0.5, 2]", "data.crop_scale"),
        ("data.crop_scale=[1, 0.5]", "data.crop_scale"),
        ("data.flip=0.5", "data.flip"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("data.recordings=kitchen", "data.recordings"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate"),
        ("optimizer.name=adm", "optimizer.name"),
        ("precision=half", "precision"),
    ],
)
def test_wrong_types_and_ranges_name_the_key_and_the_value(override: str, key: str) -> None:
    message = refusal(override)
    assert f"'{key}" in message and "found " in message and "Value error" not in message
    value = yaml.safe_load(override.partition("=")[2])
    assert not isinstance(value, (int, str)) or repr(value) in message


@pytest.mark.parametrize(("name", "kind"), [("train.yaml", TrainSettings), ("distill.yaml", DistillSettings)])
def test_yaml_lists_every_setting_with_its_default(name: str, kind: type[RunSettings]) -> None:
    content = yaml.safe_load((CONFIG / name).read_text())
    values = values_of(content, GROUPS)
    assert set(values) == keys_of(kind)
    told = {"data.path", "masks", "output", "model.arguments"}
    required = [f"{key}={values[key]}" for key in told & set(values) if key != "model.arguments"]
    defaults = values_of(yaml.safe_load(dump_settings(load_settings(kind, None, required))), GROUPS)
    assert {k: v for k, v in values.items() if k not in told} == {k: v for k, v in defaults.items() if k not in told}


@pytest.mark.parametrize(("name", "kind"), [("train.yaml", CamNet), ("distill.yaml", SegmenterNet)])
def test_yaml_lists_every_argument_of_the_network_with_its_default(name: str, kind: type) -> None:
    arguments = yaml.safe_load((CONFIG / name).read_text())["model"]["arguments"]
    parameters = {k: p.default for k, p in inspect.signature(kind).parameters.items() if k != "num_classes"}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in parameters.items()}
    assert set(arguments) == set(plain)
    chosen = ("weights", "backbone_arguments", "encoder_arguments", "decoder_arguments")
    assert {k: v for k, v in arguments.items() if k not in chosen} == {
        k: v for k, v in plain.items() if k not in chosen
    }
    assert arguments["weights"] == "auto", "the first choice of a person; the network alone downloads nothing unasked"
    kind(2, **{**arguments, "weights": "none"})  # what the file chooses for encoder and decoder fits them


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_files_are_valid(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    if file.name.endswith(".param.yaml"):
        assert all("ros__parameters" in node for node in content.values())
        return
    if file.name.startswith("nav2_"):  # Nav2's nodes lie one namespace deeper
        assert "ros__parameters" in str(content)
        return
    if file.name == "regions.yaml":
        assert load_settings(RegionTrainSettings, file, ["head.members=3"]).head.members == 3
        return
    if "distill" in file.name:
        assert load_settings(DistillSettings, file, ["clip.below=0.5"]).clip.below == 0.5
        return
    result = load_settings(TrainSettings, file)
    assert load_settings(TrainSettings, file, ["deal.weight=0.125"]).deal.weight == 0.125
    assert result.data.path and result.output
