"""`deal collect`: record a RealSense camera without ROS.

deal collect kitchen_1 --classes mug,kettle --tags mug
deal collect kitchen_1 --classes mug,kettle --tags mug --page --host 0.0.0.0
deal collect kitchen_1 --classes mug,kettle --tags mug --from robot.db3 --keyframes 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import MarkerOption, PageOptions, parse_classes, split_list

if TYPE_CHECKING:
    from deal_core.recorder.collect import Collected
    from deal_core.recorder.controls import RecorderControls
    from deal_core.recorder.pair_recorder import PairRecorder
    from deal_core.recorder.realsense import RealSense, StreamRequest

EXIT_LOSS = 3
_DEFAULT_MINUTES = 10.0


def collect(
    recording: Annotated[Path, typer.Argument(help="Folder of the new recording; it must not exist.")],
    classes: Annotated[str, typer.Option(help="All class names that tags may use, separated by commas.")],
    tags: Annotated[str, typer.Option(help="Classes that are visible at the start, separated by commas.")] = "",
    marker: MarkerOption = "partial",
    width: Annotated[int, typer.Option(min=1, help="Width of the colour image, pixels.")] = 640,
    height: Annotated[int, typer.Option(min=1, help="Height of the colour image, pixels.")] = 480,
    fps: Annotated[int, typer.Option(min=1, help="Frame rate of the camera, images per second.")] = 30,
    serial: Annotated[str, typer.Option(help="Serial number of the camera, if there are several.")] = "",
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="Read a file of the RealSense tools (.bag, .db3) instead of a camera; no rosbag2."),
    ] = None,
    keyframes: Annotated[float, typer.Option(min=0, help="Pairs to keep per second; 0 keeps all.")] = 5.0,
    duration: Annotated[float, typer.Option(min=0, help="Seconds to record; 0 is without limit.")] = 0.0,
    filters: Annotated[
        str, typer.Option(help="Depth filters, separated by commas: spatial, temporal, hole_filling.")
    ] = "",
    page: Annotated[
        bool, typer.Option("--page", help="Serve a local web page with the camera image and a button for each class.")
    ] = False,
    *,
    page_options: PageOptions,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with code 3 if a larger share of the pairs is lost.")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Record a RealSense without ROS: colour, depth aligned to it, tags.

    The recording and its summary are the same as those of the ROS recorder; deal check and deal extract read it.
    During recording, keys change the tags: 1 to 9 and 0 add or remove a class, c clears all, m switches between
    complete and partial, i ignores, n starts the next segment, k keeps the next pair, u undoes the last segment, and
    q or Ctrl-C ends the recording. --page offers the same in a browser; the command prints the page's address.

    A rosbag2 (an MCAP file or a folder) needs no conversion: deal extract reads it.

    Exit code 1: recording was refused or failed (camera unplugged, disk full); everything recorded until then is kept.
    3: a larger share of the wanted pairs than --max-loss was lost.

    Examples:
      deal collect kitchen_1 --classes mug,kettle --tags mug
      deal collect kitchen_1 --classes mug,kettle --page --host 0.0.0.0    # for a phone; the address has a token
    """
    from deal_core.errors import UsageError
    from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
    from deal_core.recorder.realsense import StreamRequest
    from deal_core.recorder.tag_commands import CLEAR, parse_tags
    from deal_core.recording.writer import check_unused
    from deal_core.structures import TagState

    if not page and page_options != PageOptions():
        raise UsageError("--host, --port and --token set up the page: add --page, or leave them out")
    known = parse_classes(classes)
    if known is None:
        raise UsageError("--classes: expected all class names that tags may use, as in mug,kettle; found none")
    state = parse_tags(f"{tags or CLEAR},{marker}", TagState(), known)
    request = StreamRequest(width, height, fps, split_list(filters))
    check_unused(recording, survives=True)
    source = _open_source(request, serial, from_file)

    def create_recorder() -> PairRecorder:
        settings = RecorderSettings(
            known,
            rate_hz=keyframes,
            # The length of a file is not known, so room for it cannot be asked of the disk in advance.
            planned_minutes=0.0 if from_file else duration / 60 or _DEFAULT_MINUTES,
            session={"tool": "deal collect", **({"file": from_file.name} if from_file else {}), **source.facts},
        )
        return PairRecorder(settings, state)

    done = _record(source, create_recorder, recording, duration, page_options if page else None, quiet=as_json)
    _report(done, max_loss, as_json=as_json)


def _open_source(request: StreamRequest, serial: str, file: Path | None) -> RealSense:
    from deal_core.errors import UsageError
    from deal_core.recorder.realsense import RealSense

    if file is None:
        return RealSense.of_camera(request, serial)
    if serial:
        raise UsageError("--serial chooses a camera and --from reads a file: use one of them")
    return RealSense.of_file(file, request.filters)


def _record(
    source: RealSense,
    create_recorder: Callable[[], PairRecorder],
    recording: Path,
    duration_s: float,
    page: PageOptions | None,
    *,
    quiet: bool,
) -> Collected:
    """Record until the source ends, a key or button ends it, or the time is over; keys and page change the tags."""
    from rich.markup import escape

    from deal_core.recorder.collect import collect_pairs
    from deal_core.recorder.controls import Control, RecorderControls
    from deal_core.recorder.terminal_keys import TerminalKeys
    from deal_ros.node.run import stop_on_signal
    from training.support.console import progress

    with ExitStack() as stack:
        stopped = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(progress(quiet=quiet))
        say = partial(bar.console.print, markup=False)
        show_page = stack.enter_context(_page(page, say)) if page else None
        stack.enter_context(source)
        task = bar.add_task("waiting for the camera", total=None)

        def end(by: str) -> str:
            stopped.set()
            return "the recording ends"

        def begin(recorder: PairRecorder) -> None:
            def show(text: str) -> None:
                bar.update(task, description=escape(text))

            controls = RecorderControls(recorder, [Control("end", "q", "end the recording", end, ends=True)], show)
            show(controls.said())
            if TerminalKeys.is_there():
                say(controls.key_help())
                stack.callback(TerminalKeys(partial(_press, controls, show)).close)
            if show_page:
                show_page(controls)

        return collect_pairs(
            source,
            create_recorder,
            recording,
            is_stopped=stopped.is_set,
            on_start=begin,
            on_pair=lambda: bar.advance(task),
            duration_s=duration_s,
        )


def _report(done: Collected, max_loss: float, *, as_json: bool) -> None:
    """Print the summary; exit with a code where the recording failed or lost too much."""
    from training.support.console import print_error, print_json

    summary = done.summary
    if as_json:
        print_json({**asdict(summary), "failure": done.failure, "largest_offset_ms": done.offset_ms})
    else:
        for line in summary.lines():
            print(line)
        print(f"  largest time difference of colour and depth in a pair: {done.offset_ms:.1f} ms")
    if done.failure:
        print_error(f"{done.failure}; what was recorded is kept in {summary.path}")
        raise typer.Exit(1)
    if summary.loss > max_loss:
        print_error(f"{summary.loss:.1%} of the wanted pairs were lost, more than --max-loss")
        raise typer.Exit(EXIT_LOSS)


@contextmanager
def _page(options: PageOptions, say: Callable[[str], object]) -> Iterator[Callable[[RecorderControls], None]]:
    """Print the page's address; yield a function that serves the page for a running recorder."""
    from deal_core.web import check_installed

    check_installed()
    from deal_core.recorder.live_page import create_live_app
    from deal_core.web.server import Door, ServingThread

    with ExitStack() as stack:
        door = stack.enter_context(Door(options.host, options.port, options.token))
        say(f"page: open {door.address} once the camera runs")

        def show(controls: RecorderControls) -> None:
            stack.enter_context(ServingThread(partial(create_live_app, controls, "deal collect", door.token), door))

        yield show


def _press(controls: RecorderControls, show: Callable[[str], object], key: str) -> None:
    from deal_core.errors import DealError

    try:
        controls.press(key, "keyboard")
    except DealError as error:
        show(str(error))
