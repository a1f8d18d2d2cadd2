"""`deal synth`: render a synthetic recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def synth(
    output: Annotated[Path, typer.Argument(help="Folder of the new recording.", show_default=False)],
    scenes: Annotated[int, typer.Option(help="Number of scenes (tabletops).")] = 40,
    frames_per_scene: Annotated[int, typer.Option(help="Number of views of each scene.")] = 10,
    size: Annotated[str, typer.Option(help="Width x height of the images, pixels.")] = "320x240",
    classes: Annotated[int, typer.Option(help="Number of classes, 1 to 12.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed; recordings with different seeds share no scene.")] = 0,
    objects: Annotated[str, typer.Option(help="Smallest-largest number of objects in a scene.")] = "2-4",
    prints: Annotated[str, typer.Option(help="Smallest-largest number of flat pictures in a scene.")] = "1-3",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recording in this folder.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Render a synthetic RGB-D recording: tabletops with tags, stereo depth and true masks for evaluation.

    The recording has the format of a robot's recorder (a rosbag2 folder), so every other command reads it. The masks
    in its ground_truth folder are for evaluation only. The same options give the same bytes. For testing, render a
    recording with another seed: two segments of one recording may show the same tabletop.

    Example:
      deal synth /tmp/tabletop_train --scenes 4 --frames-per-scene 5 --size 160x120 --seed 1
    """
    from deal_core.synthetic.recording import SyntheticConfig, render_scenes, write_recording
    from training.support.console import console, print_json, track

    width, height = _pair(size, "x", "--size", "320x240")
    config = SyntheticConfig(
        seed=seed,
        scenes=scenes,
        frames_per_scene=frames_per_scene,
        width=width,
        height=height,
        num_classes=classes,
        objects_per_scene=_pair(objects, "-", "--objects", "2-4"),
        prints_per_scene=_pair(prints, "-", "--prints", "1-3"),
    )
    frames = track(render_scenes(config), "rendering", config.frames, quiet=json_)
    write_recording(output, config, frames, overwrite=overwrite)
    if json_:
        summary = {"recording": str(output), "frames": config.frames, "classes": list(config.classes.names)}
        print_json({**summary, "size": [width, height], "seed": seed})
    else:
        console().print(f"{output}: {config.frames} frames of {', '.join(config.classes.names)}", markup=False)


def _pair(text: str, separator: str, option: str, example: str) -> tuple[int, int]:
    from deal_core.errors import UsageError

    first, found, second = text.strip().lower().partition(separator)
    if not (found and first.strip().isdecimal() and second.strip().isdecimal()):
        raise UsageError(f"{option}: expected two whole numbers like {example}, found '{text}'")
    return int(first), int(second)
