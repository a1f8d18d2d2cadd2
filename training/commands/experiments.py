"""`deal experiments`: the paper's table, from the runs that are missing to the figure.

deal experiments voc --data VOCdevkit/VOC2012 --depth voc_depth --out runs/voc --jobs 4
deal experiments synthetic --out runs/synthetic --jobs 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deal_core.experiments.plan import ExperimentOptions, Plan
    from deal_core.experiments.run import Resources, RunFailure
    from deal_core.experiments.table import Row
    from deal_core.synthetic.recording import SyntheticConfig, SyntheticFrame


class BenchmarkName(str, Enum):
    """What can be measured on."""

    VOC = "voc"
    COCO = "coco"
    HOPE = "hope"
    SYNTHETIC = "synthetic"


def experiments(
    benchmark: Annotated[BenchmarkName, typer.Argument(help="synthetic makes its own scenes and needs no --data.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value for all runs, network:key=value for one: epochs=3 seam:optimizer.momentum=0.9"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all runs, the table and the figure; runs/<benchmark> if left out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder, in its official layout.")] = None,
    depth: Annotated[
        Path | None, typer.Option(help="Folder of estimated depth (deal depth); of hope, for deal-estimated.")
    ] = None,
    models: Annotated[str, typer.Option(help="Networks with commas; those of the paper if left out.")] = "",
    variants: Annotated[
        str, typer.Option(help="With commas: baseline,deal,isl-fsl,deal+isl-fsl; hope has deal-estimated too.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="With commas; a run for each.")] = "11,42,55,128",
    val: Annotated[bool, typer.Option(help="Measure on the validation list as well.")] = True,
    full_train: Annotated[bool, typer.Option(help="Measure on all training images as well.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="In place of the presets'.")] = None,
    scales: Annotated[str, typer.Option(help="Of the CAMs, with commas, in place of the published ones.")] = "",
    presets: Annotated[
        Path | None, typer.Option(help="Folder of <benchmark>-<network>.yaml; config/experiments if left out.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once, each a process; one for each GPU if left out.")
    ] = None,
    scenes: Annotated[int | None, typer.Option(min=2, help="Of synthetic: tabletops to train on.")] = None,
    test_scenes: Annotated[int | None, typer.Option(min=2, help="Of synthetic: tabletops to measure on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train and measure what the paper's table needs; what is there is kept, a stopped experiment goes on.

    Each run is a process of its own with its logs in <out>/<network>/<variant>/seed-<seed>. At the end table.md,
    results.json and figure.png lie in the folder. A run that fails is reported, and the others go on.

    Example: deal experiments synthetic --models seam --seeds 11,42 --jobs 2
    """
    from deal_core.errors import DealError
    from deal_core.experiments.definitions import TEST_SCENES, TRAIN_SCENES, make_scenes, synthetic_scenes
    from deal_core.experiments.figure import FIGURE_FILE, draw_figure
    from deal_core.experiments.plan import ExperimentOptions, check_data, claim_folder, make_plan
    from deal_core.experiments.table import collect_rows, write_table
    from deal_core.synthetic.recording import render_scenes
    from training.commands.cams import parse_scales
    from training.support.config_folder import config_folder
    from training.support.console import console, print_json, track

    name = benchmark.value
    folder = out or Path("runs") / name
    about = {"benchmark": name}
    _check_source(name, data, scenes, test_scenes)
    options = ExperimentOptions(
        benchmark=name,
        data=data or folder / "dataset",
        out=folder,
        presets=presets or config_folder() / "experiments",
        depth=depth,
        models=_split(models),
        variants=_split(variants),
        seeds=_parse_seeds(seeds),
        val=val,
        full_train=full_train,
        scales=parse_scales(scales) if scales else (),
        overrides=[*(overrides or []), *([f"epochs={epochs}"] if epochs else [])],
    )
    plan = make_plan(options)
    if data is None:
        made = synthetic_scenes(scenes or TRAIN_SCENES, test_scenes or TEST_SCENES)
        claim_folder(folder, {**about, **{f"{name}_scenes": config.scenes for name, config in made.items()}})

        def render(name: str, config: SyntheticConfig) -> Iterator[SyntheticFrame]:
            return track(render_scenes(config), f"scenes: {name}", config.frames, quiet=as_json)

        make_scenes(folder, made, render)
    else:
        check_data(plan)
        claim_folder(folder, {**about, "data": str(data.absolute()), "depth": depth and str(depth.absolute())})
    failures = _run(plan, _machine(jobs, options), quiet=as_json)
    rows = collect_rows(plan)
    table = write_table(rows, plan.benchmark.title, name, folder)
    figure = draw_figure(rows, plan.benchmark.title, folder / FIGURE_FILE) if rows else None
    if as_json:
        failed = [{"run": f.run.key, "stage": f.stage, "code": f.code, "log": f.log} for f in failures]
        rows_json = [row.to_json() for row in rows]
        print_json({"benchmark": name, "rows": rows_json, "failed": failed, "table": table, "figure": figure})
    else:
        _print_table(rows, plan.benchmark.title)
        console().print(f"table:  {table}\nfigure: {figure or 'none, no run has a result'}", markup=False)
    if failures:
        for failure in failures:
            console().print(f"\n{failure}", style="red", markup=False)
        raise DealError(
            f"{len(failures)} of {len(plan.runs)} runs failed; the same command tries them again and keeps the others"
        )


def _check_source(name: str, data: Path | None, scenes: int | None, test_scenes: int | None) -> None:
    """Refuse an option that this benchmark would not read, and a dataset that is not named."""
    from deal_core.errors import UsageError

    if name == "synthetic" and data is not None:
        raise UsageError("--data: synthetic makes its own scenes; their number is --scenes and --test-scenes")
    if name != "synthetic" and data is None:
        raise UsageError(f"--data: expected the folder of the {name} dataset, found none")
    if name != "synthetic" and (scenes is not None or test_scenes is not None):
        raise UsageError(f"--scenes and --test-scenes belong to synthetic, not to {name}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_seeds(text: str) -> list[int]:
    from deal_core.errors import UsageError

    try:
        return [int(part) for part in _split(text)]
    except ValueError:
        raise UsageError(f"--seeds: expected whole numbers with commas, like 11,42, found '{text}'") from None


def _machine(jobs: int | None, options: ExperimentOptions) -> Resources:
    """Divide processor cores (unless OMP_NUM_THREADS says how many) and GPUs among the runs.

    Nobody is given a GPU where the settings name a device.
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
    return Resources((sys.executable, "-m", "training.cli"), jobs, threads, tuple(gpus))


def _run(plan: Plan, machine: Resources, *, quiet: bool) -> tuple[RunFailure, ...]:
    """Run the plan under a bar for all of it and one for each run at work."""
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
    """End as Ctrl-C does when a job scheduler asks for it: with the processes that were started."""
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
