"""The `deal` command as a whole: help, examples that parse, exit codes, and nothing heavy before it is needed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest
import typer
from helpers.paths import PROJECT

from deal_core.errors import DatasetError, UsageError
from training import cli

GROUP: Any = typer.main.get_command(cli.app)
COMMANDS: dict[str, Any] = {
    name: command
    for first, one in GROUP.commands.items()
    for name, command in (
        {f"{first} {second}": command for second, command in one.commands.items()}
        if hasattr(one, "commands")
        else {first: one}
    ).items()
}
"""Every command by its name of one or two words."""


def name_of(words: list[str]) -> str:
    """The name of the command at the beginning of these words, without `deal`."""
    return words[0] if words[0] in COMMANDS else " ".join(words[:2])


def examples_in(text: str) -> list[str]:
    """The lines that are commands: `Example: deal …`, `deal …` on a line of its own, continued by a backslash."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.strip().removeprefix("Example:").strip() for line in joined.splitlines()]
    return [line.partition("  # ")[0].strip() for line in lines if line.startswith("deal ")]


def all_examples() -> list[tuple[str, str]]:
    found = []
    for name, command in COMMANDS.items():
        module = sys.modules[command.callback.__module__]
        found += [(f"deal {name}", e) for e in examples_in(f"{command.help}\n\n{module.__doc__}")]
    for file in [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]:
        blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", file.read_text(), flags=re.DOTALL)
        found += [(file.name, e) for block in blocks for e in examples_in(block)]
    return found


EXAMPLES = all_examples()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str, deal: Callable[..., Any]) -> None:
    done = deal(*name.split(), "--help")
    assert done.returncode == 0 and "Usage: deal" in done.stdout
    assert "Example" in done.stdout
    own = [e for source, e in EXAMPLES if source == f"deal {name}" and name_of(shlex.split(e)[1:]) == name]
    assert own, f"no example of deal {name} in its help"
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or getattr(parameter, "help", None) or parameter.name in ("seed",), (
            parameter.name
        )


@pytest.mark.parametrize(("source", "example"), EXAMPLES, ids=[f"{s}: {e[:60]}" for s, e in EXAMPLES])
def test_every_example_parses(source: str, example: str) -> None:
    words = shlex.split(example, comments=True)
    name = name_of(words[1:])
    assert words[0] == "deal" and name in COMMANDS, f"{source}: {example}"
    command = COMMANDS[name]
    context = command.make_context(name, words[1 + len(name.split()) :])  # an option that does not exist raises
    assert not context.args
    if words[1] in ("distill", "train"):
        from deal_core.settings_file import load_settings
        from deal_core.trainer.settings import DistillSettings, TrainSettings

        kind = TrainSettings if words[1] == "train" else DistillSettings
        settings = load_settings(kind, PROJECT / context.params["config"], context.params["overrides"] or [])
        assert settings.output


def test_help_lists_all_commands(deal: Callable[..., Any]) -> None:
    done = deal("--help")
    assert done.returncode == 0 and all(name.split()[0] in done.stdout for name in COMMANDS)
    assert {"train", "evaluate", "cams", "demo", "extract", "check", "synth", "report"} <= set(COMMANDS)
    listed = GROUP.list_commands(typer.Context(GROUP))
    assert listed == sorted(listed) and set(listed) == {name.split()[0] for name in COMMANDS}
    assert "Usage" in deal().stdout + deal().stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; import training.cli; heavy = {'torch', 'cv2', 'numpy', 'timm', 'rosbags', 'pydantic', 'rclpy', "
        "'matplotlib', 'trimesh'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=120)


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "config/train.yaml", "--nonsense"],
        ["evaluate", "model.safetensors"],
        ["evaluate", "model.safetensors", "dataset", "--pictures", "-1"],
        ["evaluate", "model.safetensors", "dataset", "--tags", "some"],
        ["cams", "model.safetensors", "dataset"],
        ["demo", "--scenes", "1"],
    ],
)
def test_wrong_use_exits_with_2(arguments: list[str], deal: Callable[..., Any]) -> None:
    done = deal(*arguments)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(("error", "code"), [(DatasetError("[kitchen] is [red]wrong[/red]"), 1), (UsageError("no"), 2)])
def test_errors_are_one_sentence_with_their_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(prog_name: str) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    output = capsys.readouterr()
    assert output.err == f"error: {error}\n" and not output.out


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(prog_name: str) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interrupt_exits_with_130_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["deal"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130 and "interrupted" in capsys.readouterr().err


def test_version_is_that_of_the_package(deal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    version = re.findall("<version>(.*)</version>", (PROJECT / "package.xml").read_text())
    done = deal("--version")
    assert done.returncode == 0 and [done.stdout] == [f"deal {found}\n" for found in version]

    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert deal("--version").stdout == done.stdout


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What bash offers for the last of the words of a command line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "deal"
    script.write_text(f"#!{sys.executable}\nfrom deal_ros.__main__ import main\nmain()\n")
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",  # bash, whatever shell started the tests
    }
    run: dict[str, Any] = {"env": environment, "capture_output": True, "text": True, "check": True, "timeout": 120}
    offer = folder / "complete.sh"
    source = subprocess.run([script, "--show-completion", "bash"], **run).stdout
    offer.write_text(
        f'{source}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        "_deal_completion deal; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    return lambda *words: subprocess.run([bash, str(offer), *words], **run).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["deal", "ev"], ["evaluate"]),
        (["deal", "cams", "m", "d", "--refine-"], ["--refine-option"]),
        (["deal", "cams", "m", "d", "--refine", ""], ["none", "par", "crf", "walk", "regions", "auto"]),
        (["deal", "check", "d", "--as", "h"], ["hope"]),
        (["deal", "tag", "d", "--format", ""], ["csv", "coco", "voc", "labelstudio"]),
        (["deal", "experiments", ""], ["voc", "coco", "hope", "synthetic"]),
    ],
)
def test_bash_completes_commands_options_and_choices(
    completion: Callable[..., list[str]], words: list[str], offered: list[str]
) -> None:
    assert completion(*words) == offered


def test_benchmarks_and_refinements_of_the_options_are_those_of_the_library() -> None:
    from deal_core.experiments.choices import BenchmarkName
    from deal_core.experiments.definitions import BENCHMARKS
    from deal_core.masks.refine.choices import Refinement
    from deal_core.masks.refine.refinement import refinement_settings

    assert set(BENCHMARKS) == set(get_args(BenchmarkName))
    found = [refinement_settings(name) for name in get_args(Refinement)]
    assert found[0] is None and len({type(settings) for settings in found}) == len(found)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as where it is not installed
sys.argv = ["deal", *sys.argv[1:]]
from training.cli import main
main()
"""


@pytest.mark.parametrize("words", [("export", "model.safetensors", "--out", "a.onnx"), ("train", "config/train.yaml")])
def test_a_command_that_needs_a_missing_package_says_so(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 1
    assert "this command needs the package torch, which is not installed: `deal doctor` says" in done.stderr
    assert "Traceback" not in done.stderr
