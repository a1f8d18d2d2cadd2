"""Paths in parameters: what the operator gave at the start is trusted, what somebody sets later is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deal_core.errors import UsageError
from deal_ros.node.paths import PathKind, check_path, check_reachable, path_of


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the nodes' folder, the operator's folder, and links out of both."""
    for name in ("data/deep", "given/deep", "home/.ssh"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "home")
    (tmp_path / "given" / "link").symlink_to(tmp_path / "home" / ".ssh")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("file", "data/model"),
        ("file", "data/deep/er/model"),
        ("file", "data/deep/../model"),
        ("file", "given/model"),
        ("file", "given/other"),
        ("folder", "data"),
        ("folder", "data/snapshots"),
        ("folder", "given/model"),
        ("folder", "given/model/deep"),
    ],
)
def test_what_is_below_the_folder_or_beside_what_was_given_is_taken(robot: Path, kind: PathKind, path: str) -> None:
    check_reachable("p", kind, f"{robot}/{path}", f"{robot}/given/model", f"{robot}/data")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("file", "/etc/passwd"),
        ("file", ".ssh/key"),
        ("file", "~/.ssh/key"),
        ("file", "{robot}/data"),
        ("file", "{robot}/data/../home/x"),
        ("file", "{robot}/data/link/x"),
        ("file", "{robot}/given/link"),
        ("file", "{robot}/given/deep/x"),
        ("file", "{robot}/database/x"),
        ("folder", "{robot}/given"),
        ("folder", "{robot}/given/other"),
        ("folder", "{robot}/data/link"),
        ("folder", "/"),
        ("folder", "relative"),
        ("folder", ".."),
    ],
)
def test_everything_else_is_refused(robot: Path, kind: PathKind, path: str) -> None:
    with pytest.raises(UsageError, match="parameter 'p': while the node runs it takes a path below"):
        check_reachable("p", kind, path.format(robot=robot), f"{robot}/given/model", f"{robot}/data")


def test_without_a_given_path_only_the_folder_is_open(robot: Path) -> None:
    check_reachable("p", "file", "~/data/x", "", "~/data")
    check_reachable("p", "file", "", "", "~/data")
    with pytest.raises(UsageError, match=r"a path below ~/data, found"):
        check_reachable("p", "file", "x", "", "~/data")


@pytest.mark.parametrize(
    "text", ["x" * 201, "é" * 101, "a/" * 600, "/", "//", "a\0b", "a\nb", "a\x1b[2Jb", "a\udc80b", "a\ud800b"]
)
def test_texts_that_can_be_no_path_are_refused_in_short(text: str) -> None:
    with pytest.raises(UsageError, match="parameter 'p': expected a path") as error:
        check_path("p", text)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["", ".", "x" * 200, "~/a b/ü", "../x", "/data/kitchen_1"])
def test_others_are_taken(text: str) -> None:
    check_path("p", text)


def test_home_is_found_and_a_user_without_one_is_no_failure(robot: Path) -> None:
    assert path_of("~/x") == robot / "home" / "x"
    assert path_of("~no_such_user/x") == Path("~no_such_user/x")
    assert os.path.realpath(path_of("~no_such_user/x")).startswith(str(robot))


def test_the_longest_names_leave_room_for_what_nodes_append(tmp_path: Path) -> None:
    from deal_core.recording.writer import partial_folder

    partial_folder(tmp_path / f"{'x' * 200}_99999").mkdir()
