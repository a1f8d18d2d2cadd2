"""Whatever the bytes of a file are, its reader returns or raises an error of the project, in little memory and time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.engine import Outcome, fuzz, try_one
from fuzz.formats import FORMATS, Place

COUNT = int(os.environ.get("DEAL_FUZZ_COUNT", "2000"))
SECONDS = float(os.environ.get("DEAL_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("DEAL_FUZZ_SEED", "0"))
KEEP = os.environ.get("DEAL_FUZZ_KEEP", "")
CORPUS = Path(__file__).with_name("corpus")
REPORT: dict[str, Outcome] = {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path, new_bag: Callable[[], Any]) -> None:
    outcome = REPORT[name] = fuzz(FORMATS[name](Place(tmp_path, new_bag)), count=COUNT, seconds=SECONDS, seed=SEED)
    for number, (_, content) in enumerate(outcome.faults.values() if KEEP else ()):
        Path(KEEP).mkdir(parents=True, exist_ok=True)
        Path(KEEP, f"{name}-{number}").write_bytes(content)
    assert {where: text for where, (text, _) in outcome.faults.items()} == {}
    assert outcome.read, "the harness gets nothing through, so it tests nothing behind the first check"


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_faults_of_the_past_stay_mended(file: Path, tmp_path: Path, new_bag: Callable[[], Any]) -> None:
    outcome = Outcome()
    try_one(FORMATS[file.parent.name](Place(tmp_path, new_bag)), file.read_bytes(), outcome)
    assert {where: text for where, (text, _) in outcome.faults.items()} == {}
