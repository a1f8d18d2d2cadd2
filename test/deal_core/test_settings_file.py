"""Settings files: overrides, what is refused and in which words, and files that read back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.settings import refusal, settings
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.settings import DataSettings
from deal_core.errors import ConfigError, UsageError
from deal_core.settings_file import dump_settings, load_settings
from deal_core.trainer.settings import DealSettings, TrainSettings


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
        (b"\xff\xfe\x00", "cannot read"),
        (b"epochs: 3\nepochs: 4\n", "'epochs' appears twice"),
        (b"deal: {weight: 1}\ndata: {}\ndeal: {weight: 0}\n", "'deal' appears twice"),
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
