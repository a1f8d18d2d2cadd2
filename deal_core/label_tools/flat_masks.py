"""Masks as images: a folder of ids or colours, the masks of CVAT and VOC with labelmap.txt, and folders of ADE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deal_core.dataset.coco import fitted
from deal_core.dataset.dataset import FrameRecord
from deal_core.dataset.image_files import first_few, is_image, read_color, read_ids, refuse_outside
from deal_core.errors import DatasetError, short
from deal_core.files import read_lines
from deal_core.label_tools.layers import BACKGROUND_NAME, UNLABELLED_NAME, Layer, stacked
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList

LABELMAP_FILE = "labelmap.txt"
ADE_NAMES = ("objectInfo150.txt", "classes.txt", "labels.txt")
"""Files with the names of ADE's ids, of which the first that exists is read."""
_ADVICE = "save it as PNG again"

_Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FlatSource:
    """A folder with an image of ids or colours for each frame; see `deal_core.label_tools.layers.LabelSource`.

    Args:
        path: The folder.
        files: The file of each image, by the name of the image.
        ids: Names of the ids of a mask; other ids are named by their number.
        colors: Names of the colours of a mask, `red << 16 | green << 8 | blue`.
        only_colors: Whether a palette stands for its colours, and not for its indices.
        notes: Remarks for a person.
    """

    path: Path
    files: Mapping[str, Path]
    ids: Mapping[int, str]
    colors: Mapping[int, str]
    only_colors: bool = False
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> Sequence[str]:
        """The names of the images."""
        return list(self.files)

    def labels(self, image: str) -> set[str]:
        """Return the names in the mask of an image."""
        codes, names = self._read(self.files[image])
        return {_name(code, names, self._is_ids(names)) for code in np.unique(codes).tolist()} - {BACKGROUND_NAME}

    def layers(self, image: str, frame: FrameRecord, size: tuple[int, int]) -> list[Layer]:
        """Return a layer for each name in the mask of an image."""
        file = self.files[image]
        codes, names = self._read(file)
        whole = fitted(_with_file(frame, file), codes, size)
        named = ((_name(code, names, self._is_ids(names)), code) for code in np.unique(whole).tolist())
        layers = (Layer.of(name, whole == code) for name, code in named if name != BACKGROUND_NAME)
        return stacked(layers, frame, file, smaller_on_top=False)

    def _is_ids(self, names: Mapping[int, str]) -> bool:
        return names is self.ids

    def _read(self, file: Path) -> tuple[_Codes, Mapping[int, str]]:
        """Return the ids (H, W) of a mask, or its colours as numbers, and what they are called."""
        refuse_outside(self.path, file)
        if not self.only_colors:
            try:
                return read_ids(file, _ADVICE).astype(np.int32), self.ids
            except DatasetError as error:
                if "pixels, expected class ids" not in str(error):
                    raise
        color = read_color(file, "mask image", _ADVICE).astype(np.int32)
        return (color[..., 0] << 16) | (color[..., 1] << 8) | color[..., 2], self.colors


def open_png(path: Path, classes: ClassList) -> FlatSource:
    """Open a folder of masks: grey or palette images of ids, or images of colours.

    Args:
        path: The folder; masks may lie in folders in it.
        classes: Classes with the ids 1 to K and with their colours; 0 and black are the background, 255 is unlabelled.

    Raises:
        DatasetError: the folder contains no image.
    """
    ids = {BACKGROUND: BACKGROUND_NAME, UNLABELLED: UNLABELLED_NAME, **dict(enumerate(classes.names, 1))}
    palette = classes.palette().astype(int).tolist()
    colors = {_code(palette[number]): name for number, name in reversed(ids.items())}
    return FlatSource(path, _images(path, path), ids, colors)


def open_cvat_masks(path: Path) -> FlatSource:
    """Open a folder of CVAT's export "Segmentation mask 1.1", or another in the form of VOC with labelmap.txt.

    Raises:
        DatasetError: labelmap.txt or SegmentationClass is missing, or a line of labelmap.txt has another form.
    """
    masks = path / "SegmentationClass"
    if not masks.is_dir():
        raise DatasetError(f"{path}: expected SegmentationClass, as in CVAT's export 'Segmentation mask 1.1'")
    file = path / LABELMAP_FILE
    colors: dict[int, str] = {}
    for place, line in enumerate(_lines(path, file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, color = ([*line.rsplit(":", 3), ""] if line.count(":") > 2 else [*line.split(":"), ""])[:2]
        parts = color.split(",")
        if not name.strip() or len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            raise DatasetError(f"{file} line {place}: expected `name:red,green,blue::`, found {short(line)}")
        values = [int(part) if len(part) < 5 else 256 for part in parts]
        if max(values) > 255 or _code(values) in colors:
            raise DatasetError(f"{file} line {place}: expected a colour of its own of 0 to 255, found {short(line)}")
        colors[_code(values)] = name.strip()
    return FlatSource(path, _images(path, masks), {}, colors, only_colors=True)


def open_ade(path: Path) -> FlatSource:
    """Open folders of ADE20K's scene parsing: annotations/training, annotations/validation and objectInfo150.txt.

    Id 0, "other objects", is called `unlabelled`, as the benchmark ignores it. Of several names of an id, the first
    counts.

    Args:
        path: The folder; classes.txt with a name in each line can stand for objectInfo150.txt.

    Raises:
        DatasetError: the masks or the names are missing, or a line has another form.
    """
    masks = next((path / name for name in ("annotations", "annotation") if (path / name).is_dir()), None)
    file = next((path / name for name in ADE_NAMES if (path / name).is_file()), None)
    if masks is None or file is None:
        lacking = "the folder annotations" if masks is None else f"the names in {' or '.join(ADE_NAMES)}"
        raise DatasetError(f"{path}: expected {lacking}, as in ADE20K's scene parsing")
    ids = {BACKGROUND: UNLABELLED_NAME, UNLABELLED: UNLABELLED_NAME, **_ade_names(path, file)}
    return FlatSource(path, _images(path, masks), ids, {})


def _ade_names(path: Path, file: Path) -> dict[int, str]:
    """Return the first name of each id, from a table with a heading or from a list."""
    lines = [line for line in _lines(path, file) if line.strip()]
    is_table = bool(lines) and "\t" in lines[0]
    names: dict[int, str] = {}
    for place, line in enumerate(lines[1:] if is_table else lines, 1):
        first, *rest = line.split("\t")
        if is_table and not (rest and first.strip().isdecimal() and len(first) < 9):
            raise DatasetError(f"{file}: expected `id<tab>…<tab>names`, found {short(line)}")
        names[int(first) if is_table else place] = (rest or [first])[-1].split(",")[0].strip()
    if not names or not all(0 < number < UNLABELLED and name for number, name in names.items()):
        raise DatasetError(f"{file}: expected names for ids from 1 to {UNLABELLED - 1}, none of them empty")
    return names


def _images(path: Path, folder: Path) -> dict[str, Path]:
    """Return the images below a folder by their path in it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    found = {file.relative_to(folder).as_posix(): file for file in files if is_image(file)}
    if not found:
        others = f", found {first_few([file.name for file in files])}" if files else ""
        raise DatasetError(f"{path}: expected masks as PNG in {folder}{others}")
    return found


def _lines(path: Path, file: Path) -> list[str]:
    refuse_outside(path, file)
    try:
        return list(read_lines(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} cannot be read ({error})") from None


def _code(color: Sequence[int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _name(code: int, names: Mapping[int, str], is_ids: bool) -> str:
    """Return the name of an id or a colour; one without a name is called by its number."""
    if code in names:
        return names[code]
    return str(code) if is_ids else f"colour {code >> 16},{code >> 8 & 255},{code & 255}"


def _with_file(frame: FrameRecord, file: Path) -> FrameRecord:
    return replace(frame, mask=file)
