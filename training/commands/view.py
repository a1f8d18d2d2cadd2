"""`deal view`: show the frames of a recording, and what was computed from them, in the rerun viewer.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from training.support.options import DatasetArgument, DeviceOption, SourceOptions, TagsOption

if TYPE_CHECKING:
    import rerun

    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.report.rerun_stream import Layers

_FLUSH_S = 60.0


def view(
    dataset: DatasetArgument,
    *,
    model: Annotated[
        list[Path] | None, typer.Option(help="Model file or run folder whose predictions to show; may be repeated.")
    ] = None,
    masks: Annotated[
        list[Path] | None, typer.Option(help="Folder of pseudo masks written by deal cams; may be repeated.")
    ] = None,
    cams: Annotated[
        list[Path] | None, typer.Option(help="Folder of CAMs written by deal cams; may be repeated.")
    ] = None,
    source: SourceOptions,
    tags: TagsOption = "given",
    device: DeviceOption = "auto",
    save: Annotated[Path | None, typer.Option(help="Write an .rrd file; open it later with: rerun FILE.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the viewer as a web page that other machines can open.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=1, max=65534, help="With --serve: port of the page; the next port serves the data.")
    ] = 9090,
    spawn: Annotated[bool, typer.Option("--spawn", help="Open the viewer's window. This is the default.")] = False,
) -> None:
    """Show image, depth, depth edges, CAMs, pseudo masks and predictions of a recording, frame by frame.

    The command opens the rerun viewer, writes a file for it, or serves it as a web page. If the recording has camera
    intrinsics, depth is shown as points in space. A dataset of several recordings needs --recording.

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
        raise UsageError("there is no display for a window (DISPLAY is not set): use --save FILE or --serve")
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.report.rerun_stream import APPLICATION, check_layers, layout

    shown = _Shown(
        source.open(dataset), _layers(model or [], masks or [], cams or []), CamSettings(tags, device=device)
    )
    check_layers(shown.dataset, shown.layers, shown.settings)
    stream = rerun.RecordingStream(APPLICATION)
    blueprint = layout(shown.dataset, shown.layers)
    if save is not None:
        _save(stream, blueprint, save, shown)
    elif serve:
        _serve(stream, blueprint, port, shown)
    else:
        _show_window(stream, blueprint, shown)


@dataclass(frozen=True)
class _Shown:
    """The frames to show, and what to show of each."""

    dataset: Dataset
    layers: Layers
    settings: CamSettings


def _layers(models: list[Path], masks: list[Path], cams: list[Path]) -> Layers:
    """Open the models and folders, each named after its folder; a name that occurs again gets a number."""
    from deal_core.errors import UsageError
    from deal_core.report.compare import Candidate, open_candidate
    from deal_core.report.rerun_stream import Layers

    candidates: list[Candidate] = []
    for option, paths in (("--model", models), ("--masks", masks)):
        for path in paths:
            candidate = open_candidate(path)
            if (candidate.model is None) != (option == "--masks"):
                found = "pseudo masks" if candidate.model is None else "a model"
                other = "--masks" if option == "--model" else "--model"
                raise UsageError(f"{option} {path}: found {found} there; use {other}")
            candidates.append(candidate)
    names = _different([candidate.name for candidate in candidates])
    candidates = [replace(candidate, name=name) for candidate, name in zip(candidates, names, strict=True)]
    predicting = [candidate.name for candidate in candidates if candidate.model]
    names = _different([*predicting, *(folder.resolve().name for folder in cams)])[len(predicting) :]
    return Layers(candidates, [*zip(names, cams, strict=True)])


def _different(names: list[str]) -> list[str]:
    """Return the names; a name that occurs again gets a number."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name} ({count})" for name, count in zip(names, counts, strict=True)]


def _send(stream: rerun.RecordingStream, shown: _Shown, check: Callable[[], None] = lambda: None) -> None:
    """Send the frames under a progress bar; `check` is called after each frame."""
    from deal_core.report.rerun_stream import send_frames
    from training.support.console import counting

    with counting("frames", len(shown.dataset)) as count:

        def advance(done: int) -> None:
            check()
            count(done)

        send_frames(stream, shown.dataset, shown.layers, shown.settings, advance=advance)


def _save(stream: rerun.RecordingStream, blueprint: rerun.blueprint.Blueprint, path: Path, shown: _Shown) -> None:
    from deal_core.errors import UsageError
    from deal_core.files import replacing, why_not
    from training.support.console import console

    try:
        with replacing(path) as temporary, _written(stream, temporary, blueprint) as check:
            _send(stream, shown, check)
    except OSError as error:
        raise UsageError(
            f"--save {path}: cannot be written ({why_not(error)}): choose another file, make room, or show fewer frames"
        ) from None
    size = path.stat().st_size / 1e6
    console().print(f"{path}: {len(shown.dataset)} frames, {size:.0f} MB; open it with: rerun {path}", markup=False)


@contextmanager
def _written(
    stream: rerun.RecordingStream, path: Path, blueprint: rerun.blueprint.Blueprint
) -> Iterator[Callable[[], None]]:
    """Write what the stream receives within the block to a file; yield a check that raises OSError if this failed.

    Rerun's own writer may block forever when a disk is full. So rerun writes to a pipe that is always read, and a
    thread writes the data to the file.
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


def _serve(stream: rerun.RecordingStream, blueprint: rerun.blueprint.Blueprint, port: int, shown: _Shown) -> None:
    from urllib.parse import quote

    import rerun

    from training.support.console import console

    address = stream.serve_grpc(grpc_port=port + 1, default_blueprint=blueprint, server_memory_limit="50%")
    rerun.serve_web_viewer(web_port=port, open_browser=False)
    console().print(f"open http://127.0.0.1:{port}/?url={quote(address, safe=':/')} (Ctrl-C stops)", markup=False)
    try:
        _send(stream, shown)
        threading.Event().wait()
    except KeyboardInterrupt:
        console().print("stopped", markup=False)


def _show_window(stream: rerun.RecordingStream, blueprint: rerun.blueprint.Blueprint, shown: _Shown) -> None:
    from deal_core.errors import UsageError

    # Rerun searches PATH for the viewer; the environment of this Python is on it only where it is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The viewer sends no statistics to its makers, and no identifier is written: rerun has no other variable for it.
    os.environ["CI"] = "true"
    try:
        stream.spawn(default_blueprint=blueprint)
    except RuntimeError as error:
        raise UsageError(
            f"the viewer does not start ({str(error).strip().splitlines()[0]}): use --save or --serve"
        ) from None
    _send(stream, shown)
    try:
        stream.flush(timeout_sec=_FLUSH_S)
    except RuntimeError as error:
        raise UsageError(
            f"the viewer did not receive the frames ({error}): read its messages above, or use --save or --serve"
        ) from None


def _check_free(port: int) -> None:
    """Refuse a port in use: the servers of the viewer start in the background and would not report it."""
    import socket

    from deal_core.errors import UsageError

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
        except OSError as error:
            raise UsageError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None


def _has_display() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
