"""Settings: what is accepted, what is refused and in which words, and that config/train.yaml tells all of it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from helpers.paths import CONFIG
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deal_core.dataset.settings import DataSettings
from deal_core.errors import ConfigError, UsageError
from deal_core.models.cam_net import CamNet
from deal_core.models.segmenter import SegmenterNet
from deal_core.settings_file import dump_settings, load_settings
from deal_core.trainer.settings import DealSettings, DistillSettings, RunSettings, TrainSettings

REQUIRED = ["data.path=kitchen", "output=runs/kitchen"]


def settings(*overrides: str) -> TrainSettings:
    return load_settings(TrainSettings, None, [*REQUIRED, *overrides])


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(*overrides)
    return str(caught.value)


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


GROUPS = {"data", "model", "deal", "isl", "fsl", "optimizer", "clip"}


def test_misspelt_keys_are_named_with_the_nearest_that_exists() -> None:
    message = refusal("bach_size=4")
    assert "'bach_size'" in message and "Did you mean 'batch_size'?" in message and "checkpoint_every" in message
    message = refusal("deal.wieght=0.1")
    assert "'deal.wieght'" in message and "Did you mean 'weight'?" in message and "bach_size" not in message
    assert "Did you mean 'optimizer'?" in refusal("optimiser.learning_rate=0.1")
    assert "Did you mean" not in refusal("zzz=1")


def test_all_problems_are_told_at_once_and_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 0\ndeal: {weight: -1}\nnonsense: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(TrainSettings, file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    for said in ("'epochs'", "'deal.weight'", "'nonsense'", "'data' is required", "'output' is required"):
        assert said in message
    assert isinstance(caught.value, UsageError)


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


@pytest.mark.parametrize("text", ["weight", "=3", "", " = 1", "--x"])
def test_overrides_need_a_key_and_a_value(text: str) -> None:
    assert "deal.weight=0.1" in refusal(text) and f"'{text}'" in refusal(text)


def test_override_values_that_are_no_yaml() -> None:
    assert "epochs=[1" in refusal("epochs=[1")
    assert "'epochs'" in refusal("data={epochs: 1, epochs: 2}")


def test_an_override_wins_over_the_file_and_the_last_over_the_first(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {path: kitchen}\noutput: runs/a\ndeal:\n  weight: 0.25\n  mu: 3\n")
    result = load_settings(TrainSettings, file, ["deal.weight=0.5", "deal.weight=1e-3", "output=runs/b=c"])
    assert result.deal.weight == 0.001 and result.deal.mu == 3.0
    assert result.output == Path("runs/b=c") and result.data.path == Path("kitchen")


def test_overrides_reach_groups_that_the_file_leaves_out_or_empty(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {path: kitchen}\noutput: out\ndeal:  # all of it commented out\nmodel:\n")
    assert load_settings(TrainSettings, file).deal == DealSettings()
    result = load_settings(
        TrainSettings, file, ["deal.weight=0.5", "optimizer.name=sgd", "model.arguments.backbone_arguments.stem=16"]
    )
    assert result.deal.weight == 0.5 and result.optimizer.name == "sgd"
    assert result.model.arguments == {"backbone_arguments": {"stem": 16}}
    with pytest.raises(ConfigError, match="'output' is a value"):
        load_settings(TrainSettings, file, ["output.name=x"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"data: [1, 2", "not valid YAML"),
        (b"- 1\n- 2\n", "expected a mapping"),
        (b"just words", "expected a mapping"),
        (b"\xff\xfe\x00\x01", "cannot read"),
        (b"epochs: 3\nepochs: 4\n", "'epochs' is there twice"),
        (b"deal: {weight: 1}\ndata: {}\ndeal: {weight: 0}\n", "'deal' is there twice"),
        (b"? [1, 2]\n: 3\n", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(TrainSettings, file)
    assert str(file) in str(caught.value) and said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            load_settings(TrainSettings, path)
        assert str(path) in str(caught.value)


def test_an_empty_file_and_keys_that_are_no_words(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("")
    with pytest.raises(ConfigError, match="'data' is required; 'output' is required"):
        load_settings(TrainSettings, file)
    file.write_text("data: {path: x}\noutput: y\n1: 2\n")
    with pytest.raises(ConfigError, match="'1'"):
        load_settings(TrainSettings, file)


@pytest.mark.slow
@given(
    st.floats(0, 1e6),
    st.none() | st.tuples(st.integers(3, 999), st.integers(3, 999)),
    st.lists(st.text(min_size=1)),
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
)
def test_what_is_dumped_loads_as_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    weight: float,
    size: tuple[int, int] | None,
    recordings: list[str],
    backbone: str,
) -> None:
    before = TrainSettings(
        data=DataSettings(path=Path("a folder/ä: #"), recordings=tuple(recordings)),
        output=Path("12"),
        deal=DealSettings(weight=weight, size=size),
        model={"arguments": {"backbone": backbone, "levels": [-3, -2], "backbone_arguments": {"x": None}}},
    )
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(dump_settings(before), encoding="utf-8")
    assert load_settings(TrainSettings, file) == before


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().epochs = 3  # type: ignore[misc]


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
    assert {k: v for k, v in arguments.items() if not k.endswith("_arguments")} == {
        k: v for k, v in plain.items() if not k.endswith("_arguments")
    }
    kind(2, **arguments)  # what the file chooses for encoder and decoder fits them


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_files_are_valid(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    if file.name.endswith(".param.yaml"):
        assert all("ros__parameters" in node for node in content.values())
        return
    if "distill" in file.name:
        assert load_settings(DistillSettings, file, ["clip.below=0.5"]).clip.below == 0.5
        return
    result = load_settings(TrainSettings, file)
    assert load_settings(TrainSettings, file, ["deal.weight=0.125"]).deal.weight == 0.125
    assert result.data.path and result.output
