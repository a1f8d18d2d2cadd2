"""`deal synth`: render a synthetic recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.support.options import parse_pair

if TYPE_CHECKING:
    from deal_core.synthetic.world import World


def synth(
    output: Annotated[Path, typer.Argument(help="Folder of the new recording.", show_default=False)],
    world: Annotated[
        Literal["tabletops", "rooms"], typer.Option(help="Tabletops, or rooms with difficulties.")
    ] = "tabletops",
    scenes: Annotated[int, typer.Option(help="Number of scenes (tabletops or rooms).")] = 40,
    frames_per_scene: Annotated[int, typer.Option(help="Number of views of each scene.")] = 10,
    size: Annotated[str, typer.Option(help="Width x height of the images, pixels.")] = "320x240",
    classes: Annotated[int, typer.Option(help="Number of classes, 1 to 12.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed; recordings with different seeds share no scene.")] = 0,
    objects: Annotated[
        str | None,
        typer.Option(help="Tabletops: smallest-largest number of objects. Default: 2-4.", show_default=False),
    ] = None,
    prints: Annotated[
        str | None,
        typer.Option(help="Tabletops: smallest-largest number of flat pictures. Default: 1-3.", show_default=False),
    ] = None,
    difficulty: Annotated[
        str | None,
        typer.Option(
            help="Rooms: all, none, or some of touching, clutter, no-plane, holes, small, flat, look-alikes, stacked, "
            "separated by commas. Default: all.",
            show_default=False,
        ),
    ] = None,
    tag_faults: Annotated[
        str | None,
        typer.Option(
            help="Rooms: some of wrong=<share>, late=<frames>, partial=<share>, one, co-occurring, separated by "
            "commas. Default: complete and right tags.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["dev", "final"] | None,
        typer.Option(
            help="Rooms: looks for development (dev) or for final figures (final). Default: dev.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recording in this folder.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Render a synthetic RGB-D recording: scenes with tags, stereo depth and true masks for evaluation.

    The recording has the format of a robot's recorder (a rosbag2 folder), so every other command reads it. The masks
    in its ground_truth folder, and the camera poses of rooms there, are for evaluation only. The same options give the
    same bytes. For testing, render a recording with another seed: two segments of one recording may show the same
    scene.

    Tabletops have a few objects on a plane. Rooms have tables, shelves, beds and heaps, and difficulties that can be
    chosen one by one. docs/reference/synthetic_worlds.md describes both worlds.

    Example:
      deal synth /tmp/tabletop_train --scenes 4 --frames-per-scene 5 --size 160x120 --seed 1
      deal synth /tmp/rooms_train --world rooms --scenes 2 --difficulty touching,clutter --tag-faults wrong=0.05
    """
    from deal_core.synthetic.recording import SyntheticConfig, render_scenes, write_recording
    from deal_core.synthetic.room_style import Split
    from deal_core.synthetic.rooms import RoomsConfig, parse_difficulties
    from deal_core.synthetic.tag_faults import parse_tag_faults
    from training.support.console import console, print_json, track

    width, height = parse_pair(size, "x", "--size", "320x240")
    config: World
    if world == "rooms":
        _refuse("tabletops", objects=objects, prints=prints)
        config = RoomsConfig(
            seed=seed,
            scenes=scenes,
            frames_per_scene=frames_per_scene,
            width=width,
            height=height,
            num_classes=classes,
            difficulties=parse_difficulties("all" if difficulty is None else difficulty),
            tag_faults=parse_tag_faults(tag_faults or ""),
            split=Split(split or "dev"),
        )
    else:
        _refuse("rooms", difficulty=difficulty, tag_faults=tag_faults, split=split)
        config = SyntheticConfig(
            seed=seed,
            scenes=scenes,
            frames_per_scene=frames_per_scene,
            width=width,
            height=height,
            num_classes=classes,
            objects_per_scene=parse_pair(objects or "2-4", "-", "--objects", "2-4"),
            prints_per_scene=parse_pair(prints or "1-3", "-", "--prints", "1-3"),
        )
    frames = track(render_scenes(config), "rendering", config.frames, quiet=json_)
    write_recording(output, config, frames, overwrite=overwrite)
    if json_:
        summary = {"recording": str(output), "frames": config.frames, "classes": list(config.classes.names)}
        print_json({**summary, "size": [width, height], "seed": seed})
    else:
        console().print(f"{output}: {config.frames} frames of {', '.join(config.classes.names)}", markup=False)


def _refuse(world: str, **options: str | None) -> None:
    """Raise `UsageError` if an option of another world is given."""
    from deal_core.errors import UsageError

    for name, value in options.items():
        if value is not None:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is only for --world {world}: leave it out, or choose that world")
