"""`deal segment`: write masks of image files with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import DeviceOption

if TYPE_CHECKING:
    from deal_core.structures import Float32Array


def segment(
    model: Annotated[Path, typer.Argument(help="Model file (.safetensors, or .onnx written by deal export).")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for <name>.png (class ids) and <name>_overlay.png.")],
    depth: Annotated[
        Path | None,
        typer.Option(help="For a model that uses depth: folder of depth images, <name>.png, 16 bit, millimetres."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Segment image files as the node does, and draw the masks over the images.

    Example: deal segment runs/kitchen/model.safetensors kitchen/recordings/kitchen_1/color --out masks
    """
    import cv2
    import numpy as np

    from deal_core.dataset.image_files import read_color
    from deal_core.drawing import mask_overlay
    from deal_core.errors import DatasetError, UsageError
    from deal_core.files import os_errors_as, owning, refuse_output_on_input, replacing
    from deal_core.runtime.segmenter import Segmenter
    from training.support.console import console, track

    files, passed_over = find_images(images)
    written = [out / f"{file.stem}{end}.png" for file in files for end in ("", "_overlay")]
    folders = [path for path in (*images, *([depth] if depth else [])) if path.is_dir()]
    refuse_output_on_input([out, *written], [*folders, *files], UsageError)
    if passed_over:
        console().print(f"passed over, no images: {_first_few(passed_over)}", markup=False)
    with owning(out, DatasetError):
        segmenter = Segmenter.load(model, device=device)
        if depth is not None and not segmenter.uses_depth:
            raise UsageError(f"--depth: {model} does not use depth")
        without_depth = 0
        shares = np.zeros(256, np.int64)
        for file in track(files, "segmenting", len(files)):
            rgb = read_color(file, "image", "convert it, or leave it out")
            metres = None if depth is None else _read_depth(depth / f"{file.stem}.png", rgb.shape[:2])
            without_depth += segmenter.uses_depth and metres is None
            mask = segmenter.segment(rgb, metres).mask
            shares += np.bincount(mask.ravel(), minlength=256)
            overlay = cv2.cvtColor(mask_overlay(rgb, mask, segmenter.classes), cv2.COLOR_RGB2BGR)
            for name, picture in {f"{file.stem}.png": mask, f"{file.stem}_overlay.png": overlay}.items():
                with (
                    os_errors_as(DatasetError, f"{out / name} cannot be written"),
                    replacing(out / name, synced=False) as temporary,
                ):
                    temporary.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    found = [f"{name} {100 * shares[i + 1] / shares.sum():.1f} %" for i, name in enumerate(segmenter.classes.names)]
    lacking = f", {without_depth} of them without depth" if without_depth else ""
    by = f"by {segmenter.backend} on {segmenter.device}, {segmenter.precision}"
    console().print(f"{out}: {len(files)} masks {by}{lacking}; share of pixels: {', '.join(found)}", markup=False)


def _read_depth(file: Path, size: tuple[int, ...]) -> Float32Array | None:
    """Return depth in metres, 0 where it is unknown; None if there is no file."""
    import numpy as np

    from deal_core.dataset.image_files import check_image, read_image
    from deal_core.structures import depth_to_metres

    if not file.exists():
        return None
    depth_mm = read_image(file, "depth image", "give depth as a 16-bit PNG in millimetres, of the image's size")
    check_image(file, "depth image", depth_mm, np.uint16, size)
    return depth_to_metres(depth_mm)[0]


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the images among the paths and in the folders among them, and the other files of the folders.

    What a folder contains is an image by its first bytes or its suffix. Hidden files, such as those that macOS writes
    beside each file, are no images.

    Raises:
        UsageError: a path does not exist, there is no image, or the masks of two images would have one name.
    """
    from deal_core.dataset.image_files import is_image
    from deal_core.errors import UsageError

    files: list[Path] = []
    passed_over: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: expected an image file or a folder of images, found nothing")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                chosen = is_image(file) and (file == path or not file.name.startswith("."))
                (files if chosen else passed_over).append(file)
    if not files:
        found = f", found {_first_few(passed_over)}" if passed_over else ""
        raise UsageError(f"no image among {', '.join(map(str, paths))}: expected PNG, JPEG, WebP, BMP or TIFF{found}")
    taken: dict[str, Path] = {}
    for file in files:
        for name in (file.stem, f"{file.stem}_overlay"):
            if taken.setdefault(name, file) != file:
                raise UsageError(f"{taken[name]} and {file} would both be written to {name}.png: segment them apart")
    return files, passed_over


def _first_few(files: Sequence[Path]) -> str:
    from deal_core.dataset.image_files import first_few

    return f"{len(files)} files, as {first_few([file.name for file in files])}"
