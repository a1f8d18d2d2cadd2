"""`deal experiments`: train and evaluate the runs of the paper's table, and write the table and the figure.

deal experiments voc --data VOCdevkit/VOC2012 --depth voc_depth --out runs/voc --jobs 4
deal experiments synthetic --out runs/synthetic --jobs 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deal_core.experiments.choices import BenchmarkName
from deal_core.masks.choices import Precision
from training.support.options import parse_scales, split_list

if TYPE_CHECKING:
    from deal_core.experiments.plan import ExperimentOptions, Plan
    from deal_core.experiments.run import Resources, RunFailure
    from deal_core.experiments.table import Row
    from deal_core.synthetic.recording import SyntheticFrame
    from deal_core.synthetic.world import World


def experiments(
    benchmark: Annotated[
        BenchmarkName, typer.Argument(help="Benchmark; synthetic renders its own scenes and needs no --data.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings as key=value for all runs, or as network:key=value for one network: "
            "epochs=3 seam:optimizer.momentum=0.9"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all runs, the table and the figure. Default: runs/<benchmark>.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder in its published layout.")] = None,
    depth: Annotated[
        Path | None,
        typer.Option(help="Folder of estimated depth (deal depth); for hope, only deal-estimated uses it."),
    ] = None,
    models: Annotated[str, typer.Option(help="Networks, separated by commas. Default: those of the paper.")] = "",
    variants: Annotated[
        str,
        typer.Option(
            help="Variants, separated by commas: baseline, deal, isl-fsl, deal+isl-fsl; for hope also deal-estimated."
        ),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; one run for each.")] = "11,42,55,128",
    val: Annotated[bool, typer.Option(help="Evaluate on the validation images as well.")] = True,
    full_train: Annotated[bool, typer.Option(help="Evaluate on all training images as well.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs. Default: that of the preset.")] = None,
    scales: Annotated[
        str, typer.Option(help="Image scales of the CAMs, separated by commas. Default: the published ones.")
    ] = "",
    cam_precision: Annotated[
        Precision,
        typer.Option(help="Numbers of the networks in the evaluations: 32, as published, or bf16, which is faster."),
    ] = "32",
    presets: Annotated[
        Path | None, typer.Option(help="Folder of <benchmark>-<network>.yaml. Default: config/experiments.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of runs at once, each in a process. Default: one for each GPU.")
    ] = None,
    scenes: Annotated[int | None, typer.Option(min=2, help="For synthetic: number of training scenes.")] = None,
    test_scenes: Annotated[int | None, typer.Option(min=2, help="For synthetic: number of test scenes.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the missing results cost: steps, images and hours.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train and evaluate the runs of the paper's table. Finished runs are kept; a stopped experiment continues.

    Before the first run, a few steps and images of each network are timed, and the command says how long all will take.

    Each run is a process with its logs in <out>/<network>/<variant>/seed-<seed>. At the end the folder contains
    table.md, results.json and figure.png. If a run fails, it is reported and the others continue.

    Example: deal experiments synthetic --models seam --seeds 11,42 --jobs 2
    """
    from deal_core.errors import UsageError
    from deal_core.experiments.plan import ExperimentOptions, make_plan
    from deal_core.files import owning
    from training.support.config_folder import config_folder

    folder = out or Path("runs") / benchmark
    _check_source(benchmark, data, scenes, test_scenes)
    options = ExperimentOptions(
        benchmark=benchmark,
        data=data or folder / "dataset",
        out=folder,
        presets=presets or config_folder() / "experiments",
        depth=depth,
        models=split_list(models),
        variants=split_list(variants),
        seeds=_parse_seeds(seeds),
        val=val,
        full_train=full_train,
        scales=parse_scales(scales) if scales else (),
        cam_precision=cam_precision,
        overrides=[*(overrides or []), *([f"epochs={epochs}"] if epochs else [])],
    )
    plan = make_plan(options)
    with owning(folder, UsageError):
        if data is None:
            _render_scenes(folder, scenes, test_scenes, quiet=as_json)
        else:
            _claim_folder_for_data(plan, options)
        machine = _machine(jobs, options)
        _print_cost(plan, machine)
        if dry_run:
            return
        failures = _run(plan, machine, quiet=as_json)
        _report(plan, folder, failures, as_json=as_json)


def _render_scenes(folder: Path, scenes: int | None, test_scenes: int | None, *, quiet: bool) -> None:
    """Render the scenes of the synthetic benchmark that are missing."""
    from deal_core.experiments.definitions import TEST_SCENES, TRAIN_SCENES, make_scenes, synthetic_scenes
    from deal_core.experiments.plan import claim_folder
    from deal_core.synthetic.recording import render_scenes
    from training.support.console import track

    def render(name: str, config: World) -> Iterator[SyntheticFrame]:
        return track(render_scenes(config), f"scenes: {name}", config.frames, quiet=quiet)

    made = synthetic_scenes(scenes or TRAIN_SCENES, test_scenes or TEST_SCENES)
    claim_folder(
        folder, {"benchmark": "synthetic", **{f"{name}_scenes": config.scenes for name, config in made.items()}}
    )
    make_scenes(folder, made, render)


def _claim_folder_for_data(plan: Plan, options: ExperimentOptions) -> None:
    from deal_core.experiments.plan import check_data, claim_folder

    check_data(plan)
    data, depth = options.data.absolute(), options.depth
    about = {"benchmark": options.benchmark, "data": str(data), "depth": depth and str(depth.absolute())}
    claim_folder(options.out, about)


def _report(plan: Plan, folder: Path, failures: tuple[RunFailure, ...], *, as_json: bool) -> None:
    """Write the table and the figure, and print the results.

    Raises:
        DealError: runs failed.
    """
    from deal_core.errors import DealError
    from deal_core.experiments.figure import FIGURE_FILE, draw_figure
    from deal_core.experiments.table import collect_rows, write_table
    from training.support.console import console, print_json

    rows, benchmark = collect_rows(plan), plan.benchmark
    table = write_table(rows, benchmark.title, benchmark.name, folder)
    figure = draw_figure(rows, benchmark.title, folder / FIGURE_FILE) if rows else None
    if as_json:
        failed = [{"run": f.run.key, "stage": f.stage, "code": f.code, "log": f.log} for f in failures]
        rows_json = [row.to_json() for row in rows]
        print_json({"benchmark": benchmark.name, "rows": rows_json, "failed": failed, "table": table, "figure": figure})
    else:
        _print_table(rows, benchmark.title)
        console().print(f"table:  {table}\nfigure: {figure or 'none, because no run has a result'}", markup=False)
    if failures:
        for failure in failures:
            console().print(f"\n{failure}", style="red", markup=False)
        raise DealError(
            f"{len(failures)} of {len(plan.runs)} runs failed; the same command repeats them and keeps the others"
        )


def _check_source(name: str, data: Path | None, scenes: int | None, test_scenes: int | None) -> None:
    """Refuse options that the benchmark does not use, and a benchmark without its dataset."""
    from deal_core.errors import UsageError

    if name == "synthetic" and data is not None:
        raise UsageError("--data: synthetic renders its own scenes; set their number with --scenes and --test-scenes")
    if name != "synthetic" and data is None:
        raise UsageError(f"--data: expected the folder of the {name} dataset, found none")
    if name != "synthetic" and (scenes is not None or test_scenes is not None):
        raise UsageError(f"--scenes and --test-scenes belong to synthetic, not to {name}")


def _parse_seeds(text: str) -> list[int]:
    from deal_core.errors import UsageError

    try:
        return [int(part) for part in split_list(text)]
    except ValueError:
        raise UsageError(f"--seeds: expected whole numbers separated by commas, like 11,42, found '{text}'") from None


def _machine(jobs: int | None, options: ExperimentOptions) -> Resources:
    """Divide processor cores and GPUs among the runs.

    OMP_NUM_THREADS, if set, is the number of threads of each run. Where the settings name a device, GPUs are not
    divided.
    """
    import os
    import sys

    import torch

    from deal_core.experiments.run import Resources

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    named = any("device" in override.partition("=")[0] for override in options.overrides)
    if named or torch.cuda.device_count() < 2:
        gpus = []
    jobs = jobs or max(len(gpus), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdigit() and int(asked) > 0 else max(cores // jobs, 1)
    return Resources((sys.executable, "-m", "deal_ros"), jobs, threads, tuple(gpus))


def _print_cost(plan: Plan, machine: Resources) -> None:
    """Say what the missing results cost, if any are missing."""
    from deal_core.errors import DealError
    from deal_core.experiments.cost import estimate_cost
    from training.support.console import console

    try:
        costs = estimate_cost(plan, machine.threads)
    except DealError as error:  # the runs will say it again, each with its log
        console().print(f"cost: unknown, {error}", markup=False)
        return
    for cost in costs:
        console().print(
            f"cost: {cost.model}, {cost.runs} runs: {cost.steps:,} steps of {cost.step_s:.2g} s and "
            f"{cost.images:,} images of {cost.image_s:.2g} s, {_hours(cost.hours)}",
            markup=False,
        )
    if costs:
        device, whole = plan.runs[0].settings.device, sum(cost.hours for cost in costs)
        console().print(
            f"cost: {_hours(whole / machine.jobs)} in all, {machine.jobs} runs at a time on device {device} with "
            f"{machine.threads} threads each, from a few timed steps and images",
            markup=False,
        )


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _run(plan: Plan, machine: Resources, *, quiet: bool) -> tuple[RunFailure, ...]:
    """Run the plan with a progress bar for all runs and one for each active run."""
    from deal_core.experiments.run import RunStatus, run_plan
    from training.support.console import progress

    with progress(quiet=quiet) as bar, _ended_by_sigterm():
        whole = bar.add_task(f"{plan.benchmark.title}: runs", total=len(plan.runs))
        tasks: dict[str, Any] = {}

        def report(status: RunStatus) -> None:
            key = status.run.key
            if status.stage in ("done", "failed"):
                if key in tasks:
                    bar.remove_task(tasks.pop(key))
                bar.advance(whole)
                return
            if key not in tasks:
                tasks[key] = bar.add_task(key, total=status.run.settings.epochs)
            bar.update(tasks[key], completed=status.epochs, description=f"{key} · {status.stage}")

        return run_plan(plan, machine, report)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, which job schedulers send, like Ctrl-C: the processes that were started end as well."""
    import signal

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_table(rows: list[Row], title: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from deal_core.experiments.table import COLUMNS, SHORT_COLUMNS

    table = Table(title=escape(f"{title}: mIoU and boundary F, %"))
    for number, column in enumerate(SHORT_COLUMNS):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=True)
    for row in rows:
        cells = dict(zip(COLUMNS, row.cells(), strict=True))
        table.add_row(*(escape(cells[column]) for column in SHORT_COLUMNS))
    Console().print(table)
