"""Open masks of another tool; `auto` finds out which one by the files."""

from __future__ import annotations

from pathlib import Path

from deal_core.errors import DatasetError, UsageError
from deal_core.label_tools.choices import BoxUse, ImportFormat
from deal_core.label_tools.coco_file import open_coco_masks
from deal_core.label_tools.cvat_file import open_cvat
from deal_core.label_tools.flat_masks import ADE_NAMES, LABELMAP_FILE, open_ade, open_cvat_masks, open_png
from deal_core.label_tools.label_studio_file import open_label_studio
from deal_core.label_tools.layers import LabelSource
from deal_core.label_tools.yolo_folder import open_yolo
from deal_core.structures import ClassList

_FILES = {"coco": ".json", "label-studio": ".json", "cvat": ".xml"}


def open_masks(
    path: Path,
    form: ImportFormat,
    classes: ClassList,
    *,
    boxes: BoxUse = "refuse",
    predictions: bool = False,
) -> LabelSource:
    """Open masks of another tool.

    Args:
        path: File or folder. For a format of one file, a folder that holds one such file will do.
        form: Format of the masks.
        classes: Classes that the ids and colours of a folder of PNGs stand for.
        boxes: Use of boxes without an outline.
        predictions: For Label Studio: whether to read the predictions of a model.

    Raises:
        DatasetError: there is nothing, or it is of another form.
        UsageError: the format cannot be found out, or an option does not apply to it.
    """
    if not path.exists():
        raise DatasetError(f"{path}: expected masks of another tool, found nothing")
    if path.suffix.lower() == ".zip":
        raise DatasetError(f"{path}: expected a file or a folder, found an archive: unpack it first")
    chosen = _guess(path) if form == "auto" else form
    if predictions and chosen != "label-studio":
        raise UsageError(f"--predictions is for label-studio, and {path} is {chosen}")
    if chosen in _FILES:
        path = _only_file(path, _FILES[chosen])
    elif not path.is_dir():
        raise DatasetError(f"{path}: expected a folder for the format {chosen}, found a file")
    if chosen == "label-studio":
        return open_label_studio(path, boxes, predictions=predictions)
    if chosen in ("coco", "cvat", "yolo"):
        return {"coco": open_coco_masks, "cvat": open_cvat, "yolo": open_yolo}[chosen](path, boxes)
    if chosen == "png":
        return open_png(path, classes)
    return open_cvat_masks(path) if chosen == "cvat-masks" else open_ade(path)


def _guess(path: Path) -> ImportFormat:
    """Return the format that the files of a path have."""
    if path.is_dir():
        if (path / LABELMAP_FILE).is_file():
            return "cvat-masks"
        if any((path / name).is_file() for name in ADE_NAMES) and (path / "annotations").is_dir():
            return "ade"
        if (path / "data.yaml").is_file():
            return "yolo"
        found = [file for suffix in (".xml", ".json") for file in _files(path, suffix)]
        found = found or _files(path / "annotations", ".json")[:1]
        if not found:
            return "png"
        if len(found) > 1:
            raise UsageError(f"{path} contains {found[0].name} and {found[1].name}: name one of them, or the --format")
        path = found[0]
    if path.suffix.lower() == ".xml":
        return "cvat"
    if path.suffix.lower() == ".json":
        return "label-studio" if _begins_a_list(path) else "coco"
    raise UsageError(f"{path}: the format cannot be found out: name it with --format")


def _begins_a_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error})") from None


def _only_file(path: Path, suffix: str) -> Path:
    """Return a file, or the only file with a suffix in a folder; of COCO, `instances_*.json`, also in `annotations`."""
    if not path.is_dir():
        return path
    files = _files(path, suffix) or _files(path / "annotations", suffix)
    files = [file for file in files if file.name.startswith("instances_")] or files
    if len(files) != 1:
        found = f"{len(files)}: {files[0].name}, {files[1].name}" if files else "none"
        raise DatasetError(f"{path}: expected one {suffix} file in the folder, found {found}")
    return files[0]


def _files(path: Path, suffix: str) -> list[Path]:
    return [file for file in sorted(path.glob(f"*{suffix}")) if not file.name.startswith(".") and file.is_file()]
