"""Groups of options: what typer sees, and what the command receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from deal_core.errors import ConfigError, UsageError
from training.support.options import (
    ScoreOptions,
    SourceOptions,
    parse_classes,
    parse_scales,
    split_list,
    spread_options,
)


@dataclass(frozen=True)
class Group:
    """Two options."""

    size: Annotated[int, typer.Option(min=1, help="A size.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name", help="A name.")] = None


received: list[object] = []


def command(
    path: Annotated[Path, typer.Argument()], group: Group, last: Annotated[bool, typer.Option("--last")] = False
) -> None:
    """Do it."""
    received[:] = [path, group, last]


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.command()(spread_options(command))
    return CliRunner().invoke(app, arguments).exit_code


def test_the_fields_of_a_group_are_options_and_the_command_receives_the_group() -> None:
    assert run("a") == 0 and received == [Path("a"), Group(), False]
    assert run("a", "--size", "5", "--name", "x", "--name", "y", "--last") == 0
    assert received == [Path("a"), Group(5, ["x", "y"]), True]
    assert run("a", "--size", "0") == 2 and run("a", "--group", "1") == 2


def test_a_command_without_groups_stays_as_it_is() -> None:
    def plain(size: int = 1) -> None:
        """Do it."""

    assert spread_options(plain) is plain


def test_frames_of_a_dataset_are_opened(tiny_dataset: Path) -> None:
    every = SourceOptions().open(tiny_dataset)
    assert len(SourceOptions(frames=3).open(tiny_dataset)) == 3
    one = SourceOptions(recordings=[every.recordings[0]]).open(tiny_dataset)
    assert list(one.recordings) == [every.recordings[0]]
    with pytest.raises(UsageError, match="no splits"):
        SourceOptions(split="val").open(tiny_dataset)


def test_scores_are_made_by_default_as_the_library_makes_them() -> None:
    from deal_core.masks.refine.walk import WalkSettings
    from deal_core.masks.score_dataset import CamSettings

    assert ScoreOptions().settings() == CamSettings()
    walk = ScoreOptions(scales="0.5, 1", refine="walk", refine_options=["steps=8"], tags="predicted").settings()
    assert walk == CamSettings("predicted", (0.5, 1.0), refine=WalkSettings(steps=8))
    with pytest.raises(ConfigError, match="steps"):
        ScoreOptions(refine="walk", refine_options=["step=8"]).settings()


def test_lists_of_the_command_line() -> None:
    assert split_list(" a, b ,,") == ("a", "b") and split_list("") == ()
    classes = parse_classes("mug, kettle")
    assert classes is not None and classes.names == ("mug", "kettle") and parse_classes(" ,") is None
    with pytest.raises(UsageError, match="--classes"):
        parse_classes("mug,mug")
    for wrong in ("", "a", "1,0", "inf", "-1"):
        with pytest.raises(UsageError, match="--scales"):
            parse_scales(wrong)
