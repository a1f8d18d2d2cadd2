"""Pages of the site that are made from other files, and the check that every public name is documented.

MkDocs calls the functions named `on_...` (`hooks` in mkdocs.yml). A warning fails the build, which is strict.
"""

from __future__ import annotations

import html
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
API = "reference/api"

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made; warn of public names without a docstring and of rooms without a page."""
    pages = {
        "index.md": _as_page("README.md"),
        "contributing.md": _as_page("CONTRIBUTING.md"),
        "changelog.md": changelog_page((PROJECT / "CHANGELOG.rst").read_text(encoding="utf-8")),
        "reference/cli.md": command_line_page(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for room in public_rooms():
        page = f"{API}/{room.path.removeprefix('deal_core.')}.md"
        if files.get_file_from_path(page) is None:
            log.warning("%s has no page: expected docs/%s", room.path, page)
        for problem in undocumented(room):
            log.warning("%s", problem)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leave out the navigation beside pages that stand alone in it."""
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])
    return markdown


# --- public names


def public_rooms() -> list[griffe.Module]:
    """Return the packages in deal_core that list public names, read without importing them."""
    rooms: list[Any] = [griffe.load("deal_core", search_paths=[PROJECT], resolve_aliases=True)]
    for room in rooms:
        rooms += [inside for inside in room.modules.values() if inside.is_init_module]
    return [room for room in rooms if room.exports]


def undocumented(room: griffe.Module) -> Iterator[str]:
    """Yield what is wrong with the names in a room's `__all__`: not found without importing, or without a docstring."""
    for name in map(str, room.exports or ()):
        try:
            found = room[name]
            has_docstring = bool(found.docstring)
        except (KeyError, griffe.AliasResolutionError):
            yield f"{room.path}.{name} is in __all__, but its __init__.py and __init__.pyi do not import it"
            continue
        if not has_docstring:
            yield f"{found.canonical_path}, public as {room.path}.{name}, has no docstring"


class DoctestBlocks(griffe.Extension):
    """Sets doctests in docstrings as code; mkdocstrings takes an extension by the path of its file."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was loaded."""
        if obj.docstring:
            obj.docstring.value = with_doctest_blocks(obj.docstring.value)


_DOCTEST = re.compile(r"^([ ]*)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


def with_doctest_blocks(text: str) -> str:
    """Return a docstring whose doctests stand between fences."""
    shown = re.sub(r"[ ]*# doctest: .*", "", text)
    return _DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", shown)


# --- documents of the repository


def _as_page(name: str) -> str:
    """Return a Markdown file of the repository's root, its links as seen from docs/."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](CONTRIBUTING.md", "](contributing.md")


def changelog_page(text: str) -> str:
    """Return CHANGELOG.rst, which below its title is Markdown, too, as a page."""
    _, _, body = text.rpartition("^^^^\n")
    return f"# Changelog\n{body}"


# --- the command line

_EXAMPLE = re.compile(r"^Examples?:[ ]?(.*(?:\n(?!\n).*)*)", re.MULTILINE)  # to the next empty line


def command_line_page() -> str:
    """Return the page of all commands as typer writes it, examples set as code."""
    command = [sys.executable, "-m", "typer", "training.cli", "utils", "docs", "--name", "deal"]
    command += ["--title", "Command line"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    page = re.sub(r"\*\*Commands\*\*:.*?(?=^## )", "", done.stdout, count=1, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"^(##+) `(deal \w[\w -]*)`", r"\1 \2", page, flags=re.MULTILINE)
    return _EXAMPLE.sub(_as_code, page)


def _as_code(found: re.Match[str]) -> str:
    lines = html.unescape(found[1]).strip("\n").splitlines()
    return "```bash\n" + "\n".join(line.strip() for line in lines) + "\n```"
