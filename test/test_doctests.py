"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import io

import pytest
from helpers.paths import PROJECT

PACKAGES = ("deal_core", "deal_ros", "training")
FILES = [
    file for package in PACKAGES for file in sorted((PROJECT / package).rglob("*.py")) if ">>> " in file.read_text()
]
MODULES = [".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for file in FILES]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] in PACKAGES:
            raise
        pytest.skip(f"{error.name} is not installed")
    said, runner = io.StringIO(), doctest.DocTestRunner()
    for examples in doctest.DocTestFinder().find(module):
        runner.run(examples, out=said.write)
    assert runner.summarize(verbose=False).failed == 0, said.getvalue()


def test_examples_are_found() -> None:
    assert "deal_core.losses.depth_edge" in MODULES and len(MODULES) > 20
