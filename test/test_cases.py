"""Inputs that people brought: each script makes one, runs the product and exits 0 if it does what is expected.

The scripts are not part of the project (`CASES` says where they lie). They name the modules of version 0.1.0; a copy of
each is run with the names of today, by the table of the reference, and nothing else in it changes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import CASES, PROJECT

SCRIPTS = sorted(CASES.glob("*/*.py"))
MOVED = dict(
    re.findall(
        r"^\| `(deal_core[\w.]*)` \| `(deal_core[\w.]*)` \|$",
        (PROJECT / "docs" / "reference" / "moved_imports.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)


def with_modules_of_today(text: str) -> str:
    return re.sub(
        r"^(\s*from )(deal_core[\w.]*)(?= import )",
        lambda found: found[1] + MOVED.get(found[2], found[2]),
        text,
        flags=re.MULTILINE,
    )


@pytest.mark.cases
@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS or [CASES], ids=lambda file: file.stem)
def test_the_product_does_what_its_users_expect(script: Path, tmp_path: Path) -> None:
    copy = tmp_path / script.name
    copy.write_text(with_modules_of_today(script.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run([sys.executable, str(copy)], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_moved_modules_are_renamed_and_nothing_else() -> None:
    assert MOVED["deal_core.data.coco"] == "deal_core.dataset.coco"
    text = "from deal_core.data.coco import open_coco\nimport os  # from deal_core.data.coco\nx = 'deal_core.cams'\n"
    assert with_modules_of_today(text) == text.replace("data.coco import", "dataset.coco import", 1)
