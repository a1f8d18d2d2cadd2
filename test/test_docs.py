"""Commands in the documents parse, their snippets run, and the site builds and loads nothing from another host."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.paths import CONFIG, PROJECT

from deal_ros.node.domains import unused_domains
from training.cli import app

DOCS = PROJECT / "docs"
AT_ROOT = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
DOCUMENTS = [*AT_ROOT, *sorted(DOCS.rglob("*.md"))]
SHELL = ("", "bash", "sh")


def blocks(path: Path, *languages: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^```([a-z]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def indented(path: Path) -> list[str]:
    """Code blocks without a fence."""
    return re.findall(r"^    deal (?:.*\\\n)*.*", path.read_text(encoding="utf-8"), re.MULTILINE)


def commands_in(path: Path) -> list[str]:
    text = "\n".join([*blocks(path, *SHELL), *indented(path)]).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("deal ")]


def commands() -> list[str]:
    return sorted({line for path in DOCUMENTS for line in commands_in(path)})


def test_documents_have_commands() -> None:
    assert len(commands()) >= 60


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_documents_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    while words[0] == "--limit":  # the option of all commands stands before the command
        words = words[2:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):  # a command of two words, as in `deal masks import`
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


# --- snippets


def run_snippets(path: Path) -> Iterator[dict[str, object]]:
    for number, snippet in enumerate(blocks(path, "python")):
        scope: dict[str, object] = {}
        exec(compile(snippet, f"{path.name}, snippet {number + 1}", "exec"), scope)
        yield scope


def test_the_snippets_for_a_training_loop_run(capsys: pytest.CaptureFixture[str]) -> None:
    scopes = list(run_snippets(DOCS / "how_to" / "training_loop.md"))
    output = capsys.readouterr().out
    assert len(scopes) == 2 and "flat CAM:" in output and "FSL:" in output
    for scope in scopes:
        assert scope["cams"].grad.abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["explanation/weaktr.md", "reference/api/index.md"])
def test_the_other_snippets_run(page: str) -> None:
    assert list(run_snippets(DOCS / page))


# --- links and names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    made = {DOCS / name for name in ("index.md", "contributing.md", "changelog.md", "reference/cli.md")}
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
        there = path.parent / target
        assert there.exists() or Path(os.path.normpath(there)) in made, f"{path.name} links to {target}"


def test_every_document_that_another_file_names_is_there() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is not a git checkout")
    for name in tracked.stdout.split():
        if Path(name).suffix in (".py", ".yaml", ".md", ".rst", ".Dockerfile", ".yml") and not name.startswith("test/"):
            text = (PROJECT / name).read_text(encoding="utf-8")
            for document in re.findall(r"\bdocs/[\w/]+\.md\b", text):
                assert (PROJECT / document).exists(), f"{name} names {document}"


def test_every_module_that_a_document_names_is_there() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if path.name == "moved_imports.md":
            text = "\n".join(f"`{new}`" for new in re.findall(r"\| `(deal_core[\w.]+)` \|$", text, re.MULTILINE))
        for module in re.findall(r"`(deal_(?:core|ros)(?:\.\w+)+)`", text):
            parts = module.split(".")
            if parts[-1] == "py":
                continue
            places = [PROJECT.joinpath(*parts[:depth]) for depth in (len(parts), len(parts) - 1)]
            assert any(place.is_dir() or place.with_suffix(".py").is_file() for place in places), f"{path}: {module}"


def test_every_file_that_contributing_names_is_there() -> None:
    named = re.findall(r"`((?:deal_core|deal_ros|training|test|config|docs|\.ci)/[\w./]*)`", AT_ROOT[1].read_text())
    assert len(named) > 20
    assert not [name for name in named if "my_" not in name and not (PROJECT / name).exists()]


# --- the tutorial


@pytest.mark.slow
@pytest.mark.ros
@pytest.mark.timeout(600)
def test_the_commands_of_the_tutorial_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deal: Callable[..., Any]
) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(unused_domains(os.getpid()))))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    Path("config").symlink_to(CONFIG)
    page = DOCS / "tutorial.md"
    for line in commands_in(page):
        arguments = shlex.split(re.sub(r"--scenes \d+", "--scenes 3", line), comments=True)[1:]
        few = ["epochs=1", "batch_size=4"] if arguments[0] in ("train", "distill") else []
        done = deal(*arguments, *few)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert Path("report.html").is_file()
    node, replay = (shlex.split(block.replace("\\\n", " ")) for block in blocks(page, "sh")[-2:])
    binaries = Path(sys.executable).parent
    running = subprocess.Popen([binaries / node[0], *node[1:]])
    try:
        subprocess.run([binaries / replay[0], *replay[1:], "--ready-timeout", "200"], check=True)
    finally:
        running.terminate()
        running.wait(30)
    assert len(list(Path("node_masks").glob("*.png"))) == 3 * 5


# --- fine-tuning


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_on_fine_tuning_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deal: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").symlink_to(CONFIG)
    short = {
        "train": ["epochs=1", "batch_size=4", "data.image_size=[48, 64]"],
        "distill": ["epochs=1", "batch_size=4", "data.image_size=[48, 64]"],
        "fine-tune": ["--steps", "2", "--max-loss", "1", "batch_size=4"],
    }
    page = "\n".join(blocks(DOCS / "how_to" / "fine_tune.md", "bash"))
    lines = [line for line in page.splitlines() if line.startswith("deal ")]
    assert {line.split()[1] for line in lines} >= {"features", "fine-tune", "cams", "segment"}
    for line in lines:
        small = re.sub(r"--size \d+x\d+", "--size 64x48", re.sub(r"--scenes \d+", "--scenes 3", line))
        arguments = shlex.split(small, comments=True)[1:]
        done = deal(*arguments, *short.get(arguments[0], []))
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for run in ("new_cam", "new_robot"):
        report = json.loads((Path("runs") / run / "fine_tune.json").read_text())
        assert report["classes"]["kept"] and report["old"]["frames"] and report["new"]["frames"]


# --- masks of teachers and people


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_pages_on_masks_of_others_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deal: Callable[..., Any]
) -> None:
    from helpers.teacher_frames import drawn, make_frames, mask_folder

    monkeypatch.chdir(tmp_path)
    Path("config").symlink_to(CONFIG)
    dataset = make_frames(Path("kitchen"), frames=4)
    make_frames(Path("held_out"), frames=2)
    mask_folder(Path("kitchen_masks"), dataset, drawn(dataset))
    (scope,) = run_snippets(DOCS / "how_to" / "teacher_masks.md")
    for key, mask in drawn(dataset).items():
        objects = [(name, 0.5, mask == number) for number, name in enumerate(dataset.classes.names, 1)]
        scope["save"]("sam3_masks", *key.split("/"), mask.shape, objects)  # type: ignore[operator]
    short = {"distill": ["epochs=1", "batch_size=2", "data.image_size=[32, 48]", "model.arguments.weights=none"]}
    lines = [
        line for page in ("teacher_masks", "correct_masks") for line in commands_in(DOCS / "how_to" / f"{page}.md")
    ]
    assert len(lines) >= 8 and lines[0].startswith("deal masks import kitchen sam3_masks")
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        if "corrected.xml" in arguments:  # what a person has corrected
            shutil.copy("to_correct/annotations.xml", "corrected.xml")
        done = deal(*arguments, *short.get(arguments[0], []))
        assert done.returncode == 0, f"{line}: {done.stderr}"
    for run in ("taught", "both", "corrected"):
        assert (Path("runs") / run / "model.safetensors").is_file()


# --- the site


class Loaded(HTMLParser):
    """Collects the addresses from which a page loads something."""

    TAGS = ("script", "img", "link", "iframe", "source", "video", "audio", "object", "embed", "use", "image")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in self.TAGS and given.get("rel") != "canonical":
            self.addresses += [given[name] or "" for name in ("src", "href", "data", "srcset") if name in given]


def build_site(*options: str | Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed here (the extra docs)")
    # As `make docs` does: with --quiet, a warning would not fail the build.
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *options],
        cwd=PROJECT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build_site("--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_broken_link_and_a_missing_anchor_fail_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n[a](nowhere.md) [b](#lost)\n")
    settings = tmp_path / "mkdocs.yml"
    settings.write_text(
        f"INHERIT: {PROJECT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\nnav: [index.md]\n"
        "hooks: []\nplugins: []\nwatch: []\n"
    )
    done = build_site("--config-file", settings)
    assert done.returncode == 1 and "nowhere.md" in done.stderr and "#lost" in done.stderr, done.stderr


def test_make_docs_builds_as_these_tests_do() -> None:
    assert "mkdocs build --strict\n" in (PROJECT / "Makefile").read_text(encoding="utf-8")


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = Loaded()
        loaded.feed(text)
        assert loaded.addresses
        assert not [address for address in loaded.addresses if re.match(r"(\w+:)?//", address)], page
        assert 'class="mermaid"' not in text, "the theme loads mermaid from another host"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text(encoding="utf-8")), style


def test_the_site_has_the_commands_the_settings_and_the_readme(site: Path) -> None:
    reference = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app)
    leaves = {
        f"{first}-{second}": command
        for first, one in group.commands.items()
        for second, command in getattr(one, "commands", {"": one}).items()
    }
    for name, command in leaves.items():
        assert f'id="deal-{name.rstrip("-")}"' in reference
        for parameter in command.params:
            assert all(option in reference for option in parameter.opts)
    assert "validation_fraction" in (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "When to use something else" in (site / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/hooks.py."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed here (the extra docs)")
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("hooks")


def test_every_public_name_is_on_the_page_of_its_room(site: Path, hooks: Any) -> None:
    rooms = {room.path: list(map(str, room.exports)) for room in hooks.public_rooms()}
    assert "Segmenter" in rooms["deal_core.runtime"]
    for room, names in rooms.items():
        page = (site / "reference" / "api" / f"{room.removeprefix('deal_core.')}.html").read_text(encoding="utf-8")
        assert not [name for name in names if f'id="{room}.{name}"' not in page], room


def test_an_undocumented_public_name_is_a_warning(tmp_path: Path, hooks: Any) -> None:
    import griffe

    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    (tmp_path / "house" / "__init__.py").touch()
    (room / "inside.py").write_text('def told():\n    """Says it."""\n\n\ndef untold():\n    pass\n')
    (room / "__init__.py").touch()
    (room / "__init__.pyi").write_text('from .inside import told, untold\n\n__all__ = ["lost", "told", "untold"]\n')
    house = griffe.load("house", search_paths=[tmp_path], resolve_aliases=True)
    lost, untold = hooks.undocumented(house["room"])
    assert "house.room.lost" in lost and "house.room.inside.untold" in untold
