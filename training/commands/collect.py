"""`deal collect`: record a RealSense without ROS.

deal collect kitchen_1 --classes mug,kettle --tags mug
deal collect kitchen_1 --classes mug,kettle --tags mug --page --host 0.0.0.0
deal collect kitchen_1 --classes mug,kettle --tags mug --from robot.db3 --keyframes 0
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.extract import Marker, parse_classes

if TYPE_CHECKING:
    from deal_core.recorder.controls import RecorderControls
    from deal_core.recorder.pair_recorder import PairRecorder

EXIT_LOSS = 3
_HOST, _PORT = "127.0.0.1", 8321


def collect(
    recording: Annotated[Path, typer.Argument(help="Folder of the recording; it must not exist.")],
    classes: Annotated[str, typer.Option(help="All classes that tags may name, with commas.")],
    tags: Annotated[str, typer.Option(help="The classes that are visible at the start.")] = "",
    marker: Annotated[
        Marker, typer.Option(help="Are classes that the tags do not name unknown, or absent (complete)?")
    ] = Marker.PARTIAL,
    width: Annotated[int, typer.Option(min=1, help="Of the colour image, pixels.")] = 640,
    height: Annotated[int, typer.Option(min=1, help="Of the colour image, pixels.")] = 480,
    fps: Annotated[int, typer.Option(min=1, help="Images a second that the camera takes.")] = 30,
    serial: Annotated[str, typer.Option(help="Of the camera, where there are several.")] = "",
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="A file of RealSense's tools (.bag, .db3) instead of a camera; no rosbag2."),
    ] = None,
    keyframes: Annotated[float, typer.Option(min=0, help="Pairs to keep a second; 0 keeps all.")] = 5.0,
    duration: Annotated[float, typer.Option(min=0, help="Seconds to record; 0 has no end.")] = 0.0,
    filters: Annotated[str, typer.Option(help="Of spatial,temporal,hole_filling on depth; none by default.")] = "",
    page: Annotated[
        bool, typer.Option("--page", help="Show the picture on a local web page, with a button for each class.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address of the page; 0.0.0.0 lets a phone in.")] = _HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes any that is free.")] = _PORT,
    token: Annotated[
        str, typer.Option(help="Asked of everybody who opens the page; one is made unless --host is this machine.")
    ] = "",
    max_loss: Annotated[float, typer.Option(min=0, max=1, help="Share of pairs lost that exits with code 3.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Record a RealSense without ROS: colour, depth aligned to it, tags.

    The recording is the same as the ROS recorder's, with the same account of what was lost; deal check and deal
    extract read it. While it runs, keys say what is visible: 1 to 9 and 0 a class comes or goes, c clear,
    m complete or partial, i ignore, n next segment, k keep the next pair, u undo the last segment, q or Ctrl-C end.
    --page does the same in a browser, beside what the camera sees; it prints the page's address.

    A rosbag2 (an MCAP file, or a folder) is a recording already, which deal extract reads.

    Exit code 1 says that recording was refused or ended by itself (unplugged, disk full): what was recorded until
    then is kept. 3: more than --max-loss of the wanted pairs were lost.

    Examples:
      deal collect kitchen_1 --classes mug,kettle --tags mug
      deal collect kitchen_1 --classes mug,kettle --page --host 0.0.0.0    # from a phone; the address has a token
    """
    from deal_core.errors import UsageError
    from deal_core.recorder.collect import collect_pairs
    from deal_core.recorder.controls import Control, RecorderControls
    from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
    from deal_core.recorder.realsense import RealSense, StreamRequest
    from deal_core.recorder.tag_commands import CLEAR, parse_tags
    from deal_core.recorder.terminal_keys import TerminalKeys
    from deal_core.recording.writer import check_unused
    from deal_core.structures import TagState
    from training.support.console import console, print_json, progress
    from training.support.recording_tables import escaped

    if not page and (host, port, token) != (_HOST, _PORT, ""):
        raise UsageError("--host, --port and --token are of the page: add --page, or leave them out")
    known = parse_classes(classes)
    if known is None:
        raise UsageError("--classes: expected all classes that tags may name, as in mug,kettle; found nothing")
    state = parse_tags(f"{tags or CLEAR},{marker.value}", TagState(), known)
    request = StreamRequest(width, height, fps, tuple(name.strip() for name in filters.split(",") if name.strip()))
    check_unused(recording, survives=True)
    if from_file is not None and serial:
        raise UsageError("--serial chooses a camera, --from reads a file: give one of them")
    source = RealSense.of_file(from_file, request.filters) if from_file else RealSense.of_camera(request, serial)

    def recorder() -> PairRecorder:
        return PairRecorder(
            RecorderSettings(
                known,
                rate_hz=keyframes,
                # What a file holds comes at once, and a recording that ends by itself needs no more room than that.
                planned_minutes=0.0 if from_file else duration / 60 or 10.0,
                session={"tool": "deal collect", **({"file": from_file.name} if from_file else {}), **source.facts},
            ),
            state,
        )

    with ExitStack() as open_:
        stopped = open_.enter_context(_stop_signals())
        bar = open_.enter_context(progress(quiet=as_json))

        say = partial(bar.console.print, markup=False)
        show_page = open_.enter_context(_page(host, port, token, say)) if page else None

        def end(source: str) -> str:
            stopped.set()
            return "the recording ends"

        def begin(running: PairRecorder) -> None:
            def show(text: str) -> None:
                bar.update(task, description=escaped(text))

            controls = RecorderControls(running, [Control("end", "q", "end the recording", end, ends=True)], show)
            show(controls.said())
            if TerminalKeys.is_there():
                say(controls.key_help())
                open_.callback(TerminalKeys(partial(_press, controls, show)).close)
            if show_page:
                show_page(controls)

        open_.enter_context(source)
        task = bar.add_task("waits for the camera", total=None)
        done = collect_pairs(
            source,
            recorder,
            recording,
            is_stopped=stopped.is_set,
            on_start=begin,
            on_pair=lambda: bar.advance(task),
            duration_s=duration,
        )
    summary = done.summary
    if as_json:
        print_json({**asdict(summary), "failure": done.failure, "largest_offset_ms": done.offset_ms})
    else:
        for line in summary.lines():
            print(line)
        print(f"  colour and depth of a pair were taken up to {done.offset_ms:.1f} ms apart")
    if done.failure:
        console().print(f"[red]error:[/red] {escaped(done.failure)}; what was recorded is kept in {summary.path}")
        raise typer.Exit(1)
    if summary.loss > max_loss:
        console().print(f"[red]error:[/red] {summary.loss:.1%} of the wanted pairs were lost, over --max-loss")
        raise typer.Exit(EXIT_LOSS)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set: a recording must be closed, not cut."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _page(
    host: str, port: int, token: str, say: Callable[[str], object]
) -> Iterator[Callable[[RecorderControls], None]]:
    """Say the page's address; give what shows the page there from then on."""
    from deal_core.web import check_installed

    check_installed()
    from deal_core.recorder.live_page import create_live_app
    from deal_core.web.server import Door, ServingThread

    with ExitStack() as open_:
        door = open_.enter_context(Door(host, port, token))
        say(f"page: open {door.address} once the camera runs")

        def show(controls: RecorderControls) -> None:
            open_.enter_context(ServingThread(partial(create_live_app, controls, "deal collect", door.token), door))

        yield show


def _press(controls: RecorderControls, show: Callable[[str], object], key: str) -> None:
    from deal_core.errors import DealError

    try:
        controls.press(key, "keyboard")
    except DealError as error:
        show(str(error))
