"""What the documents tell a reader to type is accepted, and the snippets run."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from helpers.paths import PROJECT

from training.cli import app

DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = []
    for path in DOCUMENTS:
        text = "\n".join(blocks(path, "")).replace("\\\n", " ")
        lines += [line.strip() for line in text.splitlines() if line.strip().startswith("deal ")]
    return sorted(set(lines))


def test_documents_have_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_documents_parses(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)


def test_the_training_loop_of_the_loss_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks(PROJECT / "docs" / "explanation" / "loss.md", "python")
    scope: dict[str, object] = {}
    exec(compile(snippet, "docs/loss.md", "exec"), scope)
    assert "flat CAM:" in capsys.readouterr().out
    assert scope["cams"].grad.abs().sum() > 0  # type: ignore[attr-defined]


def test_the_snippet_of_the_document_on_isl_and_fsl_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks(PROJECT / "docs" / "explanation" / "isl_fsl.md", "python")
    scope: dict[str, object] = {}
    exec(compile(snippet, "docs/isl_fsl.md", "exec"), scope)
    assert "FSL:" in capsys.readouterr().out
    assert scope["cams"].grad.abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
