"""Kill every command that writes at random moments, and fill its disk; the same command again must end as ever.

    python benchmarks/kills.py --out bench_kills                              # 30 kills and 6 disks for each command
    python benchmarks/kills.py --out bench_kills --only extract,train --kills 3

Each command runs undisturbed once, which gives the expected files and the time that it takes. Then a process of it gets
SIGKILL at a random moment of that time, alone or with the processes that it started, and the same command runs again:
all files must be equal byte for byte, and no hidden file may be left. Processes are forked from one that has imported
everything, so that moments fall into the work and not into the imports.

A full disk is a small tmpfs, which needs `unshare` of Linux: the command must end with an error that says that the disk
is full, and without a traceback. Then the disk gets larger, and the same command must end as ever.

What differs between two undisturbed runs is not compared: logs of TensorBoard and of processes, which hold times, and
`resumed_from` of distill.json, which tells of the kill. Of checkpoint.pt, all values are compared.
Prints a table; kills.json in the output folder holds it too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "test")]

from deal_core.files import owning  # noqa: E402 (found by the line above)
from deal_core.ownership import leftovers  # noqa: E402 (found by the line above)

LIMIT_S = 300.0
DISK_KB = (300,)
_TRIES = 3  # for each kill: a process may end before its moment
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Sizes of the small disks, as shares of what the command writes, beside `DISK_KB`."""
_HEAVY = (
    "onnx",
    "onnxruntime",
    "matplotlib.figure",
    "transformers",
    "torch.utils.tensorboard",
    "timm",
    "rosbags.typesys",
)
_TRAIN = ("batch_size=4", "epochs=4", "checkpoint_every=2", "log_every=1", "device=cpu", "data.workers=0")
_EXPERIMENT = (
    *("experiments", "synthetic", "--out", "out", "--scenes", "2", "--test-scenes", "2", "--models", "seam"),
    *("--seeds", "11", "--variants", "baseline", "--no-val", "--scales", "1.0", "epochs=2", "batch_size=4"),
    *("device=cpu", "threshold_rule=fixed:0.3", "data.image_size=[32,32]", "data.workers=0", "checkpoint_every=1"),
)


@dataclass(frozen=True)
class Case:
    """A command that writes to `out` in its working folder.

    Args:
        name: name in the table.
        arguments: arguments of `deal`; `out` is what it writes.
        before: function that makes what is there before, in the working folder.
        kept: whether a second run in a finished output is refused, because the command never replaces it.
    """

    name: str
    arguments: tuple[str, ...]
    before: Callable[[Path], object] = lambda folder: None
    kept: bool = False


@dataclass
class Result:
    """Outcomes of one command.

    Args:
        command: name of the case.
        seconds: time of an undisturbed run.
        kills: number of processes that were killed while they ran.
        survived: number of them after which the same command ended as ever.
        full: number of disks that were too small.
        refilled: number of them on which the error said so, and after which the same command ended as ever.
        faults: what went wrong.
    """

    command: str
    seconds: float
    kills: int = 0
    survived: int = 0
    full: int = 0
    refilled: int = 0
    faults: list[str] = field(default_factory=list)


def cases(inputs: Path) -> list[Case]:
    """Return every command that writes; `inputs` holds what they read, see `make_inputs`."""
    a, b, data, masks, tapped = (str(inputs / name) for name in ("a", "b", "dataset", "masks", "tapped"))
    taps, poses, weights = (str(inputs / name) for name in ("taps.json", "poses.txt", "weights.safetensors"))
    model, region_model = str(inputs / "run/model.safetensors"), str(inputs / "regions/model.safetensors")
    tiny = ("data.image_size=[32,48]", f"data.path={data}", "output=out", *_TRAIN)
    fine_tune = ("fine-tune", data, "--from", model, "--out", "out", "--steps", "24", *_TRAIN[:1], "device=cpu")
    synth = ("synth", "out", "--scenes", "3", "--frames-per-scene", "4", "--size", "96x72", "--seed")

    def copied(source: str) -> Callable[[Path], object]:
        return lambda folder: shutil.copytree(source, folder / "out")

    return [
        Case("extract", ("extract", a, b, "--out", "out")),
        Case("extract --overwrite", ("extract", a, "--out", "out", "--overwrite"), copied(data)),
        Case("synth", (*synth, "1"), kept=True),
        Case("synth --overwrite", (*synth, "2", "--overwrite"), copied(a)),
        Case("check --repair", ("check", str(inputs / "damaged"), "--repair", "--out", "out"), kept=True),
        Case("tag --import", ("tag", "out", "--import", str(inputs / "tags.csv")), copied(data)),
        Case("tag --import taps", ("tag", "out", "--import", taps, "--format", "labelstudio"), copied(data)),
        Case("tag --export", ("tag", data, "--export", "out")),
        Case("tag --export taps", ("tag", tapped, "--export", "out", "--format", "labelstudio")),
        Case("tag --export voc", ("tag", data, "--export", "out", "--format", "voc"), kept=True),
        Case("poses", ("poses", "out", poses, "--recording", "a"), copied(data)),
        Case("depth", ("depth", data, "--out", "out", "--model", str(inputs / "depth_model"), "--device", "cpu")),
        Case("features", ("features", data, "--backbone", model, "--out", "out", "--device", "cpu")),
        Case(
            "audit",
            (
                *("audit", data, "--backbone", "test_resnet", "--weights", "none"),
                *("--out", "out.json", "--page", "out.html", "--features", "out_features"),
            ),
        ),
        Case("train", ("train", str(PROJECT / "config/train.yaml"), *tiny, "model.arguments={backbone: test_resnet}")),
        Case(
            "regions",
            (
                *("regions", str(PROJECT / "config/regions.yaml"), f"data.path={data}", "output=out", "device=cpu"),
                *("network.arguments={backbone: test_resnet}", "network.levels=[[-3],[-2]]", "head.members=2"),
                "head.steps=60",
            ),
        ),
        Case("cams", ("cams", model, data, "--out", "out", "--device", "cpu", "--refine", "walk")),
        Case("cams taps", ("cams", model, tapped, "--out", "out", "--device", "cpu")),
        Case("cams --regions", ("cams", model, data, "--regions", region_model, "--out", "out", "--device", "cpu")),
        Case(
            "distill",
            (
                *("distill", str(PROJECT / "config/distill.yaml"), f"masks={masks}", *tiny),
                "model.arguments={encoder: test_resnet}",
            ),
        ),
        Case("fine-tune", (*fine_tune, "--rehearse", str(inputs / "earlier"), "checkpoint_every=2")),
        Case("fine-tune --features", (*fine_tune, "--features", "out_features", "checkpoint_every=2")),
        Case("import-weights", ("import-weights", weights, "--backbone", "test_resnet", "--out", "out.safetensors")),
        Case("segment", ("segment", model, f"{data}/recordings/a/color", "--out", "out", "--device", "cpu")),
        Case("export", ("export", model, "--out", "out.onnx")),
        Case(
            "export int8",
            ("export", model, "--out", "out.onnx", "--precision", "int8", "--calibrate", data, "--frames", "4"),
        ),
        Case("evaluate", ("evaluate", model, data, "--out", "out", "--device", "cpu", "--pictures", "4")),
        Case("report", ("report", str(inputs / "run"), "--out", "out.html")),
        Case("experiments", _EXPERIMENT),
    ]


def make_inputs(inputs: Path) -> None:
    """Make what the commands read, unless an earlier run has made it."""
    if (inputs / "done").exists():
        return
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    for name, seed in (("a", "11"), ("b", "12"), ("c", "13")):
        size = ("--scenes", "3", "--frames-per-scene", "4", "--size", "96x72")
        _must(inputs, ("synth", name, *size, "--seed", seed))
    _must(inputs, ("extract", "a", "b", "--out", "dataset"))
    _must(inputs, ("extract", "c", "--out", "earlier"))
    shutil.copytree(inputs / "a", inputs / "damaged")
    file = next((inputs / "damaged").glob("*.mcap"))
    os.truncate(file, file.stat().st_size * 2 // 3)
    _must(inputs, ("tag", "dataset", "--export", "tags.csv"))
    table = (inputs / "tags.csv").read_text().splitlines()
    (inputs / "tags.csv").write_text("\n".join([table[0], *(line.replace(",1", ",0") for line in table[1:])]) + "\n")
    tiny = ("data.image_size=[32,48]", "data.path=dataset", *_TRAIN)
    config = str(PROJECT / "config/train.yaml")
    _must(inputs, ("train", config, *tiny, "output=run", "model.arguments={backbone: test_resnet}"))
    regions = ("network.arguments={backbone: test_resnet}", "network.levels=[[-3],[-2]]", "head.members=2")
    words = ("regions", str(PROJECT / "config/regions.yaml"), "data.path=dataset", "output=regions", "device=cpu")
    _must(inputs, (*words, *regions, "head.steps=60"))
    _must(inputs, ("cams", "run/model.safetensors", "dataset", "--out", "masks", "--device", "cpu"))
    _must(inputs, ("evaluate", "run/model.safetensors", "dataset", "--device", "cpu", "--pictures", "4"))

    (inputs / "taps.json").write_text(json.dumps(_taps(inputs / "dataset")))
    (inputs / "poses.txt").write_text(_poses(inputs / "dataset"))
    shutil.copytree(inputs / "dataset", inputs / "tapped")
    _must(inputs, ("tag", "tapped", "--import", "taps.json", "--format", "labelstudio"))
    for name in ("a", "b"):
        _must(inputs, ("poses", "tapped", "poses.txt", "--recording", name))

    def save_models() -> None:
        import timm
        from helpers.depth_model import save_depth_model  # type: ignore[import-not-found]
        from safetensors.torch import save_file

        save_depth_model(inputs / "depth_model")
        save_file(timm.create_model("test_resnet").state_dict(), inputs / "weights.safetensors")

    assert _wait(_fork(save_models, inputs, inputs / "last.log"), LIMIT_S) == 0
    (inputs / "done").touch()


def _taps(dataset: Path) -> list[dict[str, object]]:
    """Return tasks of Label Studio with a box and a tap in every second frame of a dataset."""
    from deal_core.dataset.dataset import Dataset

    opened = Dataset.open(dataset)
    tasks: list[dict[str, object]] = []
    for frame, tags in list(zip(opened.frames, opened.tags, strict=True))[::2]:
        name = opened.classes.names[int((tags == 1).argmax())]
        size = {"original_width": 96, "original_height": 72}
        box = {"x": 20, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [name]}
        tap = {"x": 35, "y": 40, "width": 0.5, "keypointlabels": [name]}
        results = [
            {"from_name": "box", "type": "rectanglelabels", **size, "value": box},
            {"from_name": "tap", "type": "keypointlabels", **size, "value": tap},
        ]
        tasks.append({"data": {"image": "-", "frame": frame.key}, "annotations": [{"result": results}]})
    return tasks


def _poses(dataset: Path) -> str:
    """Return a pose for each frame of a dataset, as the TUM benchmark writes them."""
    from deal_core.dataset.dataset import Dataset

    stamps = sorted({frame.stamp_ns for frame in Dataset.open(dataset).frames})
    lines = (f"{stamp // 10**9}.{stamp % 10**9:09} {number / 100} 0 0 0 0 0 1\n" for number, stamp in enumerate(stamps))
    return "".join(lines)


def measure(case: Case, work: Path, kills: int, disks: bool, chance: random.Random) -> Result:
    """Kill a command and fill its disk."""
    first, seconds = _undisturbed(case, work)
    second, _ = _undisturbed(case, work)
    result = Result(case.name, seconds)
    if first != second:
        result.faults.append(f"two undisturbed runs differ in {_differences(first, second)}")
        return result
    for _ in range(_TRIES * kills):
        if result.kills < kills:
            _kill(case, work, first, result, chance)
    if disks:
        _fill(case, work, first, result)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _undisturbed(case: Case, work: Path) -> tuple[dict[str, str], float]:
    _prepare(case, work)
    size = _size(work)
    begin = time.monotonic()
    code = _wait(_run(case, work), LIMIT_S)
    seconds = time.monotonic() - begin
    if code:
        raise RuntimeError(f"{case.name} ends with {code}: {_log(work)[-2000:]}")
    return {**digests(work), "": str(_size(work) - size)}, seconds


def _kill(case: Case, work: Path, expected: dict[str, str], result: Result, chance: random.Random) -> None:
    _prepare(case, work)
    pid = _run(case, work)
    time.sleep(chance.uniform(0.0, result.seconds))
    done, _ = os.waitpid(pid, os.WNOHANG)
    if done:
        return
    if chance.random() < 0.5:
        with suppress(ProcessLookupError):  # it has no session of its own yet
            os.killpg(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    result.kills += 1
    left = [str(path.relative_to(work)) for path in sorted(work.rglob("*")) if path.name.startswith(".")]
    whole = digests(work).items() >= {name: value for name, value in expected.items() if name}.items()
    code = _wait(_run(case, work), LIMIT_S)
    if is_as_expected(
        case, work, expected, result, f"kill {result.kills} (left {left[:3]})", 0 if case.kept and whole else code
    ):
        result.survived += 1


def _fill(case: Case, work: Path, expected: dict[str, str], result: Result) -> None:
    needed = int(expected[""])
    for size in (*(kb * 1024 for kb in DISK_KB), *(int(share * needed) for share in SHARES)):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        before = work.parent / "before"
        shutil.rmtree(before, ignore_errors=True)
        before.mkdir()
        case.before(before)
        try:
            # Pages are of 4 kB; what was there before has room.
            _mount(work, size + _size(before))
            shutil.copytree(before, work, dirs_exist_ok=True)
            log = work.parent / "small.log"
            code = _wait(_run(case, work, log), LIMIT_S)
            said = log.read_text(errors="replace")
            if not code:
                continue  # it had room
            result.full += 1
            _mount(work, 2**28, remount=True)
            what = f"a disk of {size} bytes"
            if "the disk is full" not in " ".join(said.split()) or "Traceback" in said:
                result.faults.append(f"{what}: exit code {code}, and it says {said[-300:]!r}")
            elif left := leftovers(work):
                result.faults.append(f"{what}: {left[:3]} is left")
            elif is_as_expected(case, work, expected, result, what, _wait(_run(case, work), LIMIT_S)):
                result.refilled += 1
        finally:
            subprocess.run(["umount", work], check=False)


def _mount(folder: Path, size: int, *, remount: bool = False) -> None:
    options = f"{'remount,' if remount else ''}size={size // 4096 * 4 + 4}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def is_as_expected(
    case: Case, work: Path, expected: dict[str, str], result: Result, what: str, code: int | None
) -> bool:
    found = {**digests(work), "": expected[""]}
    hidden = [path for path in work.rglob(".*") if path.name != ".lock"]
    if code:
        result.faults.append(f"{what}: the same command ends with {code}: {_log(work)[-600:]!r}")
    elif found != expected:
        result.faults.append(f"{what}: other files: {_differences(found, expected)}")
    elif hidden:
        result.faults.append(f"{what}: {hidden[:3]} is left")
    return not code and found == expected and not hidden


def _prepare(case: Case, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    case.before(work)


def _run(case: Case, work: Path, log: Path | None = None) -> int:
    return _deal(case.arguments, work, log or work.parent / "last.log")


def _deal(arguments: Sequence[str], folder: Path, log: Path) -> int:
    def command() -> None:
        from training.cli import main

        sys.argv = ["deal", *arguments]
        main()

    return _fork(command, folder, log)


def _fork(function: Callable[[], None], folder: Path, log: Path) -> int:
    """Run a function in a forked process with a session of its own, and return its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, limit_s: float) -> int | None:
    """Return the exit code of a process; None if it had to be ended."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def _must(folder: Path, arguments: Sequence[str]) -> None:
    log = folder / "last.log"
    code = _wait(_deal(arguments, folder, log), LIMIT_S)
    if code:
        raise RuntimeError(f"deal {' '.join(arguments)} ends with {code}: {log.read_text()[-2000:]}")


def digests(work: Path) -> dict[str, str]:
    """Return the digest of each file that two runs of a command have in common."""
    found = {}
    for file in sorted(work.rglob("*")):
        name = str(file.relative_to(work))
        hidden = any(part.startswith(".") for part in file.relative_to(work).parts)
        if hidden or not file.is_file() or "/tensorboard/" in name or file.suffix == ".log":
            continue
        content = file.read_bytes()
        if file.name == "distill.json":
            content = json.dumps({**json.loads(content), "resumed_from": None}).encode()
        elif file.name == "checkpoint.pt":
            content = _values(file)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _values(checkpoint: Path) -> bytes:
    """Return all numbers and names of a checkpoint; its pickle also depends on which objects were one in memory."""
    import torch

    def flat(value: object) -> bytes:
        if isinstance(value, torch.Tensor):
            return f"{value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes()
        if isinstance(value, dict):
            return b"".join(flat(key) + flat(entry) for key, entry in value.items())
        if isinstance(value, (list, tuple)):
            return b"".join(map(flat, value))
        return repr(value).encode()

    return flat(torch.load(checkpoint, map_location="cpu", weights_only=True))


def _differences(one: dict[str, str], two: dict[str, str]) -> list[str]:
    return [name for name in sorted({*one, *two}) if name and one.get(name) != two.get(name)][:5]


def _size(folder: Path) -> int:
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file())


def _log(work: Path) -> str:
    return (work.parent / "last.log").read_text(errors="replace")


def import_everything() -> None:
    """Import what the commands import, so that forked processes need not."""
    import torch

    torch.set_num_threads(1)
    import deal_core
    import training.commands

    for package in (deal_core, training.commands):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
            except ImportError:  # a library of another job
                continue
    for name in _HEAVY:
        importlib.import_module(name)


def can_mount() -> bool:
    """Return whether this user may mount a small disk in a name space of its own."""
    if not shutil.which("unshare"):
        return False
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Run the chosen commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for inputs, trials and kills.json")
    parser.add_argument("--only", default="", help="names of commands, separated by commas; all without")
    parser.add_argument("--kills", type=int, default=30, help="processes of each command to kill")
    parser.add_argument("--no-disks", action="store_true", help="fill no disks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    is_inside = os.environ.get("DEAL_KILLS_MOUNTS") == "yes"
    disks = not given.no_disks
    if disks and not is_inside:
        if can_mount():
            words = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv]
            os.execvpe("unshare", words, {**os.environ, "DEAL_KILLS_MOUNTS": "yes"})
        print("no disk is filled: this user cannot mount a small one", file=sys.stderr)
        disks = False
    out: Path = given.out.resolve()
    with owning(out, RuntimeError):
        failed = _measure_all(out, given.only.split(",") if given.only else [], given.kills, disks, given.seed)
    sys.exit(1 if failed else 0)


def _measure_all(out: Path, names: Sequence[str], kills: int, disks: bool, seed: int) -> bool:
    """Print a line for each command, keep the results in kills.json, and return whether something went wrong."""
    import_everything()
    make_inputs(out / "inputs")
    every = {case.name: case for case in cases(out / "inputs")}
    chosen = [every[name] for name in names or every]
    file = out / "kills.json"
    results = {entry["command"]: entry for entry in json.loads(file.read_text())} if file.exists() else {}
    failed = False
    print(f"{'command':22}{'seconds':>8}{'kills':>7}{'survived':>10}{'disks full':>12}{'as ever after':>15}")
    for case in chosen:
        made = measure(case, out / "trial", kills, disks, random.Random(f"{seed} {case.name}"))
        print(
            f"{case.name:22}{made.seconds:8.2f}{made.kills:7}{made.survived:10}{made.full:12}{made.refilled:15}",
            flush=True,
        )
        for fault in made.faults[:4]:
            print(f"  {fault}", flush=True)
        failed = failed or bool(made.faults)
        results[case.name] = asdict(made)
        file.write_text(json.dumps(list(results.values()), indent=1) + "\n")
    return failed


if __name__ == "__main__":
    main()
