"""`deal view`: what the camera saw and what was made of it, along a recording, in the rerun viewer.

deal view kitchen
deal view kitchen --recording monday --model runs/robot --masks kitchen_cams --cams kitchen_cams --save monday.rrd
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from training.commands.cams import DeviceOption, Tags, TagsOption
from training.support.dataset_options import (
    ClassIds,
    ClassIdsOption,
    DatasetArgument,
    DepthOption,
    FramesOption,
    Layout,
    LayoutOption,
    SplitOption,
    open_frames,
)

if TYPE_CHECKING:
    import rerun

    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.report.rerun_stream import Layers

_FLUSH_S = 60.0


def view(
    dataset: DatasetArgument,
    model: Annotated[
        list[Path] | None, typer.Option(help="Model file or run folder, to predict with; may be repeated.")
    ] = None,
    masks: Annotated[
        list[Path] | None, typer.Option(help="Folder of pseudo masks, by deal cams; may be repeated.")
    ] = None,
    cams: Annotated[list[Path] | None, typer.Option(help="Folder of CAMs, by deal cams; may be repeated.")] = None,
    recording: Annotated[str, typer.Option(help="Which recording, where there are several.")] = "",
    layout: LayoutOption = Layout.DEAL,
    split: SplitOption = "",
    depth: DepthOption = None,
    class_ids: ClassIdsOption = ClassIds.CONTIGUOUS,
    frames: FramesOption = None,
    tags: TagsOption = Tags.GIVEN,
    device: DeviceOption = "auto",
    save: Annotated[Path | None, typer.Option(help="Write a .rrd file, to open later: rerun FILE.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show it on a page; every machine around can ask.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65534, help="Of --serve: of the page; the next is for data.")] = 9090,
    spawn: Annotated[bool, typer.Option("--spawn", help="Open the viewer's window; the default.")] = False,
) -> None:
    """Show image, depth, depth edges, CAMs, pseudo masks and predictions along a recording.

    It opens the rerun viewer, or writes a file for it, or serves the viewer as a page. With the camera's intrinsics
    the depth stands in space.

    Examples:
      deal view kitchen
      deal view kitchen --recording monday --model runs/robot --masks kitchen_cams --save monday.rrd
    """
    from deal_core.errors import UsageError

    if sum((save is not None, serve, spawn)) > 1:
        raise UsageError("--save, --serve and --spawn: expected one of the three")
    try:
        import rerun
    except ModuleNotFoundError as error:
        raise UsageError(f"the viewer needs {error.name}: pip install 'deal_ros[view]'") from None
    if serve:
        _check_free(port)
        _check_free(port + 1)
    elif save is None and not _has_display():
        raise UsageError("no display to open a window on (DISPLAY is not set): use --save FILE, or --serve")
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.report.rerun_stream import APPLICATION, check_layers
    from deal_core.report.rerun_stream import layout as arrange

    chosen = open_frames(dataset, layout, split, depth, class_ids, [recording] if recording else None, frames)
    layers = _layers(model or [], masks or [], cams or [])
    settings = CamSettings(tags=tags.value, device=device)
    check_layers(chosen, layers, settings)
    stream = rerun.RecordingStream(APPLICATION)
    blueprint = arrange(chosen, layers)
    if save is not None:
        _save(stream, blueprint, save, chosen, layers, settings)
    elif serve:
        _serve(stream, blueprint, port, chosen, layers, settings)
    else:
        _spawn(stream, blueprint)
        _send(stream, chosen, layers, settings)
        try:
            stream.flush(timeout_sec=_FLUSH_S)
        except RuntimeError as error:
            raise UsageError(
                f"the viewer has not taken the frames ({error}): see what it says above, or use --save or --serve"
            ) from None


def _layers(models: list[Path], masks: list[Path], cams: list[Path]) -> Layers:
    """Open what the options name, each by the name of its folder; what has the name of another gets a number."""
    from deal_core.errors import UsageError
    from deal_core.report.compare import Candidate, open_candidate
    from deal_core.report.rerun_stream import Layers

    candidates: list[Candidate] = []
    for option, paths in (("--model", models), ("--masks", masks)):
        for path in paths:
            candidate = open_candidate(path)
            if (candidate.model is None) != (option == "--masks"):
                found = "pseudo masks" if candidate.model is None else "a model"
                raise UsageError(f"{option} {path}: found {found} there, for which there is another option")
            candidates.append(candidate)
    names = _different([candidate.name for candidate in candidates])
    candidates = [replace(candidate, name=name) for candidate, name in zip(candidates, names, strict=True)]
    predicting = [candidate.name for candidate in candidates if candidate.model]
    names = _different([*predicting, *(folder.resolve().name for folder in cams)])[len(predicting) :]
    return Layers(candidates, [*zip(names, cams, strict=True)])


def _different(names: list[str]) -> list[str]:
    """Return the names, each that was there before with a number."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name} ({count})" for name, count in zip(names, counts, strict=True)]


def _send(
    stream: rerun.RecordingStream,
    dataset: Dataset,
    layers: Layers,
    settings: CamSettings,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Send under a progress bar; `check` is called after every frame."""
    from deal_core.report.rerun_stream import send_frames
    from training.support.console import progress

    with progress() as bar:
        task = bar.add_task("frames", total=len(dataset))

        def advance(done: int) -> None:
            check()
            bar.update(task, completed=done)

        send_frames(stream, dataset, layers, settings, advance=advance)


def _save(
    stream: rerun.RecordingStream,
    blueprint: rerun.blueprint.Blueprint,
    path: Path,
    dataset: Dataset,
    layers: Layers,
    settings: CamSettings,
) -> None:
    from deal_core.errors import UsageError
    from deal_core.files import replacing
    from training.support.console import console

    try:
        with replacing(path) as temporary, _written(stream, temporary, blueprint) as check:
            _send(stream, dataset, layers, settings, check)
    except OSError as error:
        raise UsageError(
            f"--save {path}: cannot be written ({error.strerror}): choose another file, make room, or show fewer frames"
        ) from None
    size = path.stat().st_size / 1e6
    console().print(f"{path}: {len(dataset)} frames, {size:.0f} MB; open it with: rerun {path}", markup=False)


@contextmanager
def _written(
    stream: rerun.RecordingStream, path: Path, blueprint: rerun.blueprint.Blueprint
) -> Iterator[Callable[[], None]]:
    """Write what is sent to the stream within the block; yield what raises OSError once writing has failed.

    Rerun's own writer may wait for ever once a disk is full. So it writes into a pipe that takes everything, and what
    comes out of it is written here.
    """
    failed: list[OSError] = []

    def check() -> None:
        if failed:
            raise failed[0]

    def write(pipe: Path, file: BinaryIO) -> None:
        with pipe.open("rb", buffering=0) as source:
            while data := source.read(1 << 20):
                if not failed:
                    try:
                        file.write(data)
                    except OSError as error:
                        failed.append(error)

    with path.open("wb") as file, tempfile.TemporaryDirectory(prefix="deal_view_") as folder:
        pipe = Path(folder) / "pipe.rrd"
        os.mkfifo(pipe)
        writer = threading.Thread(target=write, args=(pipe, file), daemon=True)
        writer.start()
        stream.save(pipe, default_blueprint=blueprint)
        try:
            yield check
        finally:
            stream.disconnect()
            writer.join()
        check()


def _serve(
    stream: rerun.RecordingStream,
    blueprint: rerun.blueprint.Blueprint,
    port: int,
    dataset: Dataset,
    layers: Layers,
    settings: CamSettings,
) -> None:
    from urllib.parse import quote

    import rerun

    from training.support.console import console

    address = stream.serve_grpc(grpc_port=port + 1, default_blueprint=blueprint, server_memory_limit="50%")
    rerun.serve_web_viewer(web_port=port, open_browser=False)
    console().print(f"open http://127.0.0.1:{port}/?url={quote(address, safe=':/')} (Ctrl-C ends)", markup=False)
    try:
        _send(stream, dataset, layers, settings)
        threading.Event().wait()
    except KeyboardInterrupt:
        console().print("ended", markup=False)


def _spawn(stream: rerun.RecordingStream, blueprint: rerun.blueprint.Blueprint) -> None:
    from deal_core.errors import UsageError

    # The viewer is looked for on PATH, where an environment that is not activated is not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        stream.spawn(default_blueprint=blueprint)
    except RuntimeError as error:
        raise UsageError(
            f"the viewer does not start ({str(error).strip().splitlines()[0]}): use --save or --serve"
        ) from None


def _check_free(port: int) -> None:
    """The viewer's servers start in the background: what keeps them from it is found out here."""
    import socket

    from deal_core.errors import UsageError

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
        except OSError as error:
            raise UsageError(f"port {port} cannot be used ({error.strerror}): choose others with --port") from None


def _has_display() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
