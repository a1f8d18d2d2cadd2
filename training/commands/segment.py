"""`deal segment`: write masks of image files with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import DeviceOption

if TYPE_CHECKING:
    from deal_core.structures import Float32Array

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


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

    from deal_core.drawing import mask_overlay
    from deal_core.errors import DatasetError, UsageError
    from deal_core.files import replacing
    from deal_core.runtime.segmenter import Segmenter
    from training.support.console import console, track

    files = find_images(images)
    segmenter = Segmenter.load(model, device=device)
    if depth is not None and not segmenter.uses_depth:
        raise UsageError(f"--depth: {model} does not use depth")
    without_depth = 0
    shares = np.zeros(256, np.int64)
    for file in track(files, "segmenting", len(files)):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise DatasetError(f"{file}: cannot be read as an image; expected PNG, JPEG or BMP")
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        metres = None if depth is None else _read_depth(depth / f"{file.stem}.png", rgb.shape[:2])
        without_depth += segmenter.uses_depth and metres is None
        mask = segmenter.segment(rgb, metres).mask
        shares += np.bincount(mask.ravel(), minlength=256)
        overlay = cv2.cvtColor(mask_overlay(rgb, mask, segmenter.classes), cv2.COLOR_RGB2BGR)
        for name, picture in {f"{file.stem}.png": mask, f"{file.stem}_overlay.png": overlay}.items():
            try:
                with replacing(out / name) as temporary:
                    temporary.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            except OSError as error:
                raise DatasetError(f"{out / name} cannot be written: {error}") from None
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


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among the paths and in the folders among them; those of a folder sorted by name.

    Raises:
        UsageError: a path does not exist, there is no image, or two images have the same name.
    """
    from deal_core.errors import UsageError

    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: expected an image file or a folder of images, found nothing")
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in inside if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise UsageError(f"no image among {', '.join(map(str, paths))}: expected {', '.join(_SUFFIXES)}")
    stems = [file.stem for file in files]
    repeated = next((file for file in files if stems.count(file.stem) > 1), None)
    if repeated:
        raise UsageError(f"several images are named '{repeated.stem}' and would be written to the same mask file")
    return files
