"""Parallel execution of runs, with one process per step; only missing steps are made.

A run is locked while a process works on it, even after the end of the command that started the process. So a command
that was killed can be started again: it waits for what still trains.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from deal_core.errors import DealError, EvaluationError
from deal_core.evaluation.result import EvaluationResult
from deal_core.experiments.plan import Evaluation, Plan, PlannedRun
from deal_core.files import os_errors_as, replacing
from deal_core.limits import read_bytes
from deal_core.models.model_file import read_info
from deal_core.settings_file import load_settings
from deal_core.text_formats import parse_json
from deal_core.trainer.run_folder import HISTORY_FILE, SETTINGS_FILE
from deal_core.trainer.settings import TrainSettings

MADE_FILE = "made.json"
"""File next to an evaluation, with its model and arguments."""

_LOCK_FILE = ".lock"
_POLL_S = 0.1
_END_S = 20.0
_LAST_LINES = 12
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Resources:
    """The resources of the processes.

    Args:
        command: Command that starts `deal`, such as `python -m deal_ros`.
        jobs: Number of parallel runs.
        threads: Threads per process.
        gpus: GPU names as in CUDA_VISIBLE_DEVICES, assigned to the runs in turn; default: all GPUs for every process.
    """

    command: tuple[str, ...]
    jobs: int = 1
    threads: int = 1
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run: `stage` is `waiting`, `training`, `evaluating <part>`, `done` or `failed`."""

    run: PlannedRun
    stage: str
    epochs: int = 0


@dataclass(frozen=True)
class RunFailure:
    """The failure of a run.

    Args:
        run: The failed run.
        stage: Stage of the failure.
        code: Exit code of the process; -9 means signal 9.
        log: Log file of the process.
        last_lines: Last lines of the log.
    """

    run: PlannedRun
    stage: str
    code: int
    log: Path
    last_lines: str

    def __str__(self) -> str:
        how = f"was ended by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"
        return f"{self.run.key}: {self.stage} {how}; {self.log} ends with\n{self.last_lines}"


def run_plan(
    plan: Plan, resources: Resources, report: Callable[[RunStatus], None] = lambda status: None
) -> tuple[RunFailure, ...]:
    """Make all missing results of the plan, and return the failed runs. After a failure, the other runs continue.

    The end of this function, also by Ctrl-C, ends the processes that it started; a later call resumes the runs.
    """
    waiting, active, slots = list(plan.runs), list[_Job](), list(range(resources.jobs))
    failures: list[RunFailure] = []
    try:
        while waiting or active:
            for run in list(waiting):
                if not slots:
                    break
                lock = _lock(run.folder)
                if lock is None:
                    report(RunStatus(run, "waiting"))
                    continue
                waiting.remove(run)
                active.append(_Job(run, resources, slots.pop(0), lock))
            for job in list(active):
                status = job.advance()
                report(status)
                if status.stage in ("done", "failed"):
                    active.remove(job)
                    slots.append(job.slot)
                    job.end()
                    failures += [job.failure] if job.failure else []
            if waiting or active:
                time.sleep(_POLL_S)
    finally:
        for job in active:
            job.end()
    return tuple(failures)


def is_trained(run: PlannedRun) -> bool:
    """Return whether the run has a complete model file from a training with these settings."""
    try:
        read_info(run.model_file)
        there = load_settings(TrainSettings, run.folder / SETTINGS_FILE)
    except DealError:
        return False
    return there.model_copy(update={"output": run.settings.output}) == run.settings


def is_evaluated(run: PlannedRun, evaluation: Evaluation) -> bool:
    """Return whether the run has this evaluation of its current model."""
    folder = run.folder / evaluation.part
    try:
        EvaluationResult.read(folder)
        made = _Made.model_validate_json(read_bytes(folder / MADE_FILE, "description_bytes"))
        return made == _made_from(run, evaluation)
    except (DealError, OSError, ValueError):
        return False


def evaluated_folders(out: Path) -> list[Path]:
    """Return the folders of all finished evaluations of runs in the folder of an experiment, in order."""
    found = (file.parent for file in out.glob(f"*/*/seed-*/*/{MADE_FILE}"))
    return sorted(folder for folder in found if folder.parent.name[5:].isdecimal())


class _Job:
    """An active run: its remaining steps, and the process of the first step."""

    def __init__(self, run: PlannedRun, resources: Resources, slot: int, lock: int) -> None:
        self.run, self.slot = run, slot
        self.failure: RunFailure | None = None
        self._resources, self._lock = resources, lock
        self._steps: list[Evaluation | None] = [None, *run.evaluations]  # None is the training
        self._process: subprocess.Popen[bytes] | None = None

    def advance(self) -> RunStatus:
        """Check the process, start the next one if it has ended, and return the progress of the run."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return self._status()
            self._process = None
            if code:
                self.failure = RunFailure(self.run, self._stage(), code, self._log(), _last_lines(self._log()))
                return RunStatus(self.run, "failed", epochs_done(self.run.folder))
            step = self._steps.pop(0)
            if step is not None:
                _sign(self.run, step)
        while self._steps and self._is_done(self._steps[0]):
            self._steps.pop(0)
        if self._steps:
            self._start()
        return self._status()

    def end(self) -> None:
        """End the process, if there is one, and release the lock of the run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._lock)

    def _is_done(self, step: Evaluation | None) -> bool:
        return is_trained(self.run) if step is None else is_evaluated(self.run, step)

    def _start(self) -> None:
        run, step = self.run, self._steps[0]
        if step is None:
            arguments = ["train", str(run.preset), *run.overrides]
        else:
            name = f"{run.model} {run.variant.name}"
            folder = run.folder / step.part
            arguments = ["evaluate", str(run.model_file), str(run.settings.data.path), *_arguments(run, step)]
            arguments += ["--out", str(folder), "--name", name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._resources.threads)}
        if self._resources.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._resources.gpus[self.slot % len(self._resources.gpus)]
        with os_errors_as(EvaluationError, f"{self._log()} cannot be written"), self._log().open("ab") as log:
            # The process inherits the lock, which holds until all processes of this run end.
            self._process = subprocess.Popen(
                [*self._resources.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[self._lock],
            )

    def _stage(self) -> str:
        if not self._steps:
            return "done"
        return "training" if self._steps[0] is None else f"evaluating {self._steps[0].part}"

    def _status(self) -> RunStatus:
        return RunStatus(self.run, self._stage(), epochs_done(self.run.folder))

    def _log(self) -> Path:
        return self.run.folder / f"{self._stage().replace(' ', '-')}.log"


def epochs_done(folder: Path) -> int:
    """Return the number of completed epochs of the run in this folder, from its history."""
    try:
        with (folder / HISTORY_FILE).open("rb") as history:
            history.seek(max(history.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            lines = history.read().split(b"\n")
        # The text after the last line break may be incomplete.
        return int(parse_json(lines[-2].decode(), finite=False)["epoch"])
    except (OSError, IndexError, ValueError, KeyError, TypeError, OverflowError):
        return 0


def _lock(folder: Path) -> int | None:
    """Return an open file that locks the run until this process and all that inherit the file close it."""
    with os_errors_as(EvaluationError, f"{folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


class _Made(BaseModel):
    """The content of made.json: SHA-256 of the model file, and the arguments of `deal evaluate`."""

    model: str
    arguments: list[str]


def _sign(run: PlannedRun, evaluation: Evaluation) -> None:
    file = run.folder / evaluation.part / MADE_FILE
    with os_errors_as(EvaluationError, f"{file} cannot be written"), replacing(file) as temporary:
        temporary.write_text(_made_from(run, evaluation).model_dump_json(indent=1) + "\n", encoding="utf-8")


def _made_from(run: PlannedRun, evaluation: Evaluation) -> _Made:
    digest = hashlib.sha256(run.model_file.read_bytes()).hexdigest()
    return _Made(model=digest, arguments=_arguments(run, evaluation))


def _arguments(run: PlannedRun, evaluation: Evaluation) -> list[str]:
    """Return the arguments for `deal evaluate`, with the threshold of an earlier evaluation if required."""
    if evaluation.threshold_of is None:
        return list(evaluation.arguments)
    auto = EvaluationResult.read(run.folder / evaluation.threshold_of).auto
    if auto is None:  # its rule found none on the training images: that of the model file remains
        return list(evaluation.arguments)
    return [*evaluation.arguments, "--threshold-rule", f"fixed:{auto.threshold}"]


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])
