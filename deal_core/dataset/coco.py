"""MS COCO 2014 in its official layout; masks are drawn from the annotations.

    annotations/instances_<split>.json
    <split>/<image>.jpg  or  images/<split>/<image>.jpg
    masks/<split>/<image>.png     optional masks, read instead of drawing the annotations

The category ids run from 1 to 90, and ten of them never occur. Masks and class lists follow one of two conventions:
`contiguous` numbers the 80 categories from 1 to 80; `category` keeps the ids and has 90 classes, ten of them unused.
Masks of one convention cannot be read with the other.

Other tools write the same format with less care, so nothing is taken for granted: an image is named by its whole path,
the stated size of an image is compared with its pixels, ids may begin at 0 and have gaps, and an object may be a box.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.dataset.choices import ClassIds
from deal_core.dataset.dataset import Dataset, FrameLoader, FrameRecord
from deal_core.dataset.image_files import first_few, inside, orientation_of, read_ids, require_files, turned
from deal_core.errors import DatasetError, UsageError, short
from deal_core.limits import limit, refuse_over
from deal_core.structures import BACKGROUND, MAX_CLASSES, UNLABELLED, ClassList, TagMarker, TagState, UInt8Array
from deal_core.text_formats import LargeJson, Span

_ADVICE = "unpack the COCO archives again"


def open_coco(path: Path | str, split: str = "", class_ids: ClassIds = "contiguous") -> Dataset:
    """Read the lists and tags of COCO, or of another dataset in its format.

    Tags are the categories of an image's annotations, including crowds. Images without annotations (702 of train2014,
    367 of val2014) are left out, as usual; the dataset's notes count them. An image with an annotation that has no
    outline, such as a box alone, has tags and no mask.

    A frame's name is the path of its image without the suffix; with it, if only the suffix tells two images apart.
    An image that is listed several times is one frame with all its annotations.

    Args:
        path: folder with annotations and images.
        split: train2014, val2014, or another with an instances_<split>.json; train2014 if empty.
        class_ids: contiguous numbers the categories from 1 without gaps, in the order of their ids; category keeps
            the ids, and fills each gap with a class `unused <id>`.

    Raises:
        DatasetError: files are missing, or the annotations are not in COCO's format; the message names the place.
        UsageError: the split has no annotations.
    """
    root, split = Path(path), split or "train2014"
    file = _annotation_file(root, split)
    content = _read_content(file)
    classes, mask_ids = _coco_classes(file, content.categories, class_ids)
    for category, annotation in content.used.items():
        if category not in mask_ids:
            raise DatasetError(f"{file}: annotation {annotation} has the unknown category id {short(category)}")
    folder = _image_folder(root, split)
    images = _listed_images(file, folder, content.images)
    known = {number for image in images for number in image.numbers}
    if orphans := [str(number) for number in content.annotations if number not in known]:
        raise DatasetError(f"{file}: annotations have {len(orphans)} image ids without an image: {first_few(orphans)}")
    ids = [mask_ids[category] for category in content.used]
    annotated = [(image, found) for image in images if (found := content.of(image.numbers, ids))]
    if not annotated:
        raise DatasetError(f"{file} contains no image with annotations")
    names = _frame_names([image.path for image, _ in annotated], folder)
    masks = root / "masks" / split
    frames = [
        _coco_frame(masks / f"{name}.png" if masks.is_dir() else file, split, image, name, found, classes)
        for name, (image, found) in zip(names, annotated, strict=True)
    ]
    require_files([frame.color for frame in frames], folder, "images", _ADVICE)
    objects = {name: (image.size, found) for name, (image, found) in zip(names, annotated, strict=True)}
    loader = CocoLoader(content.file, objects)
    return Dataset(root, classes, frames, loader, notes=_notes(images, frames, masks))


def _notes(images: Sequence[_Listed], frames: Sequence[FrameRecord], masks: Path) -> list[str]:
    without = len(images) - len(frames)
    boxes = sum(frame.mask is None for frame in frames)
    again = sum(len(image.numbers) > 1 for image in images)
    return [
        *([f"{without} of {len(images)} images have no annotation and are left out"] if without else []),
        *([f"{again} images are listed more than once; their annotations are joined"] if again else []),
        *([f"{boxes} images have an annotation without an outline, and so tags but no mask"] if boxes else []),
        *([f"masks are read from {masks}, not drawn from the annotations"] if masks.is_dir() else []),
    ]


@dataclass(frozen=True)
class CocoLoader(FrameLoader):
    """Reads images, and reads or draws masks.

    Args:
        file: file of the annotations; as Python objects, COCO's would fill 2 GB.
        objects: stated (H, W) of the image and its annotations, by frame name.
    """

    file: LargeJson
    objects: Mapping[str, tuple[tuple[int, int] | None, tuple[_Annotation, ...]]] = field(repr=False)
    advice = _ADVICE

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return (H, W) class ids, read from a mask file if there is one, else drawn; None without outlines.

        Raises:
            DatasetError: a file cannot be read, an annotation is wrong, or the annotations have changed meanwhile.
        """
        if frame.mask is None:
            return None
        stated, annotations = self.objects[frame.name]
        if frame.mask.suffix == ".json":
            try:
                drawn = [(a.mask_id, self.file.value(a.span).get("segmentation")) for a in annotations]
            except (OSError, ValueError) as error:
                raise DatasetError(f"{self.file.path} cannot be read ({error}): start again") from None
            return draw_mask(frame, drawn, size, stated)
        mask = read_ids(frame.mask, _ADVICE)
        known = [BACKGROUND, UNLABELLED, *(a.mask_id for a in annotations)]
        wrong = [i for i in np.unique(mask).tolist() if i not in known]
        if wrong:
            raise DatasetError(
                f"mask {frame.mask} contains id {wrong[0]}, which no annotation of the image has: its ids may follow "
                "the other convention; choose it with class_ids (contiguous or category)"
            )
        return mask


class _Annotation(NamedTuple):
    """An object of an image: its id in masks, whether it has an outline, and its place in the file."""

    mask_id: int
    has_outline: bool
    span: Span


def draw_mask(
    frame: FrameRecord,
    annotations: Sequence[tuple[int, Any]],
    size: tuple[int, int],
    stated: tuple[int, int] | None = None,
) -> UInt8Array:
    """Return the (H, W) ids of an image's annotations.

    Objects with fewer pixels cover larger ones, and the later of two equal ones covers the other. A crowd counts as an
    object of its category. Pixels without an annotation are background.

    Args:
        frame: the image.
        annotations: id in the mask, and segmentation, of its objects.
        size: (H, W) of the image as it is read, turned by its orientation tag.
        stated: (H, W) for which the annotations were made; run lengths state their own. Annotations of a larger or
            smaller copy of the image are scaled, and those of the image before it is turned are turned, too.

    Raises:
        DatasetError: a segmentation is neither polygons nor run lengths, or is for an image of another shape.
    """
    drawn = []
    kept = 0
    for mask_id, segmentation in annotations:
        covered = decode_segmentation(frame, segmentation, size, stated or size)
        place = box_of(covered)
        part = covered[place].copy()
        kept += part.size
        refuse_over("object_pixels", kept, f"pixels of the objects of image {frame.name}", _refused(frame))
        drawn.append((mask_id, place, part))
    mask = np.zeros(size, np.uint8)
    for mask_id, place, part in sorted(drawn, key=lambda each: -int(each[2].sum())):
        mask[place][part] = mask_id
    return mask


def box_of(covered: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns in which a mask (H, W) is set."""
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _refused(frame: FrameRecord) -> Callable[[str], DatasetError]:
    return lambda sentence: DatasetError(f"{frame.mask}: {sentence}")


def decode_segmentation(
    frame: FrameRecord, segmentation: Any, size: tuple[int, int], stated: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Return the pixels (H, W) that polygons or run lengths of COCO cover.

    Args:
        frame: the image; `mask` is the file of the annotation, for the message.
        segmentation: polygons `[[x, y, x, y, …], …]` in pixels, or run lengths `{"size": [H, W], "counts": …}`.
        size: (H, W) of the image as it is read, turned by its orientation tag.
        stated: (H, W) for which the annotation was made; run lengths state their own.

    Raises:
        DatasetError: it is neither, exceeds a limit, or is for an image of another shape.
    """
    from pycocotools import mask as coder

    if isinstance(segmentation, dict) and "size" in segmentation:
        stated = whole_pair(segmentation["size"]) or stated
    refuse_over("image_pixels", stated[0] * stated[1], f"pixels of image {frame.name}", _refused(frame))
    turn = _turn(frame, size, stated)
    target = size if turn < 5 else size[::-1]
    try:
        if isinstance(segmentation, dict):
            counts = segmentation["counts"]
            if "size" not in segmentation:
                raise ValueError("run lengths have no size")
            runs = _unpacked(counts) if isinstance(counts, str) else counts
            return fitted(frame, _from_runs(runs, stated), size).astype(np.bool_)
        scale = np.array([target[1] / stated[1], target[0] / stated[0]])
        scaled = [np.reshape(np.asarray(points, np.float64), (-1, 2)) * scale for points in segmentation]
        length = sum(float(np.abs(np.diff(points, axis=0, append=points[:1])).sum()) for points in scaled)
        if not np.isfinite(length):
            raise ValueError("a coordinate is not finite")
        refuse_over("outline_pixels", length, f"pixels of an outline in image {frame.name}", _refused(frame))
        if any(np.abs(points).max(initial=0) > limit("outline_pixels") for points in scaled):
            raise ValueError("a coordinate is far outside of the image")
        pixels = coder.decode(coder.merge(coder.frPyObjects([p.ravel().tolist() for p in scaled], *target)))
    except DatasetError:
        raise
    except Exception as error:  # pycocotools raises many kinds, also plain Exception
        raise DatasetError(
            f"{frame.mask}: an annotation of image {frame.name} is neither polygons nor run lengths "
            f"({str(error)[:200]})"
        ) from None
    return turned(np.asarray(pixels, np.bool_), turn)


def _unpacked(text: str) -> list[int]:
    """Return the run lengths in the compressed form of COCO; pycocotools reads behind the end of a damaged one.

    A number has 5 bits a character, lowest first; the sixth says that more follow. From the third on, a number is the
    difference to the number before the last one.
    """
    runs: list[int] = []
    value = place = 0
    for character in text.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64 or place > 30:
            raise ValueError("a character of the run lengths is not COCO's")
        value |= (bits & 31) << place
        place += 5
        if not bits & 32:
            value -= (1 << place) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = place = 0
    if place:
        raise ValueError("the run lengths end within a number")
    return runs


def _from_runs(runs: Sequence[int], size: tuple[int, int]) -> UInt8Array:
    """Return the mask (H, W) of run lengths of 0 and 1 in turn, column by column; what they leave out is 0."""
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("a run length is no whole number from 0")
    height, width = size
    covered = sum(runs)
    if covered > height * width:
        raise ValueError(f"the run lengths cover {short(covered)} pixels, expected {height * width}")
    flat = np.zeros(height * width, np.uint8)
    flat[:covered] = np.repeat(np.arange(len(runs), dtype=np.int64) % 2, runs)
    return flat.reshape(width, height).T


def fitted(frame: FrameRecord, pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return a mask (h, w) of an image, turned and scaled by nearest neighbour to the (H, W) in which it is read.

    Raises:
        DatasetError: the mask has another shape than the image.
    """
    turn = _turn(frame, size, (pixels.shape[0], pixels.shape[1]))
    target = size if turn < 5 else size[::-1]
    if pixels.shape != target:
        pixels = np.asarray(cv2.resize(pixels, target[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    return turned(pixels, turn)


def _turn(frame: FrameRecord, size: tuple[int, int], stated: tuple[int, int]) -> int:
    """Return the orientation by which to turn what was drawn for the stated size; refuse an image of another shape."""
    if _same_shape(stated, size):
        return 1
    turn = orientation_of(frame.color) if _same_shape(stated, size[::-1]) else 1
    if turn >= 5:
        return turn
    raise DatasetError(
        f"{frame.mask}: an annotation of image {frame.name} has size {list(stated)}, expected the image's size "
        f"{list(size)} (height, width) or another in the same ratio"
    )


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two (H, W) have one aspect ratio, to 1 % for rounding to whole pixels."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= 0.01


def whole_pair(value: Any) -> tuple[int, int] | None:
    """Return two positive whole numbers (as 640 or 640.0), or None if `value` is something else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    whole = [int(n) for n in value if type(n) in (int, float) and 0 < n < 2**31 and n % 1 == 0]
    return (whole[0], whole[1]) if len(whole) == 2 else None


def _annotation_file(root: Path, split: str) -> Path:
    folder = root / "annotations"
    file = folder / f"instances_{split}.json"
    if file.is_file():
        return file
    known = sorted(f.stem.removeprefix("instances_") for f in folder.glob("instances_*.json"))
    if not known:
        raise DatasetError(f"{root} is not a COCO dataset: expected {file}; unpack COCO's annotations there")
    raise UsageError(f"{root} has no split '{split}': expected {file}; found annotations of {', '.join(known)}")


class _Content:
    """What is read of a file of annotations; of its annotations, their places."""

    file: LargeJson

    def __init__(self) -> None:
        self.categories: list[Any] = []
        self.images: list[dict[str, Any]] = []
        self.annotations: defaultdict[Any, array[int]] = defaultdict(lambda: array("q"))
        """Numbers of three for each annotation of an image: place of its category in `used`, start and length in the
        file; the length is negative without an outline."""
        self.used: dict[Any, str] = {}
        """Name of the first annotation of each category."""
        self._places: dict[Any, int] = {}

    def add_image(self, entry: dict[str, Any]) -> None:
        self.images.append({key: entry[key] for key in ("id", "file_name", "height", "width") if key in entry})
        refuse_over("listed_images", len(self.images), "images", DatasetError)

    def add_annotation(self, entry: dict[str, Any], span: Span) -> None:
        category = entry["category_id"]
        place = self._places.setdefault(category, len(self._places))
        self.used.setdefault(category, short(entry.get("id")))
        length = span.length if entry.get("segmentation") else -span.length
        if entry["image_id"] not in self.annotations:
            refuse_over("listed_images", len(self.annotations) + 1, "images", DatasetError)
        self.annotations[entry["image_id"]].extend((place, span.start, length))

    def of(self, images: Iterable[int], mask_ids: Sequence[int]) -> tuple[_Annotation, ...]:
        """Return the annotations of images; `mask_ids` are those of the categories in `used`."""
        found = [self.annotations[number] for number in images if number in self.annotations]
        return tuple(
            _Annotation(mask_ids[place], length > 0, Span(start, abs(length)))
            for numbers in found
            for place, start, length in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        )


_KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}
"""What the entries of each list need."""


def read_annotations(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lists images, annotations and categories of a file of COCO; their entries have their ids and names.

    They are in memory as a whole, so the file may be as long as any other text (`text_bytes`).

    Raises:
        DatasetError: the file cannot be read, or is of another form.
    """
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in _KEYS}

    def keeping(name: str) -> Callable[[Any, Span], None]:
        return lambda entry, _: lists[name].append(entry)

    _read_lists(file, {name: keeping(name) for name in lists}, "text_bytes")
    return lists


def _read_content(file: Path) -> _Content:
    content = _Content()
    use = {
        "images": lambda entry, _: content.add_image(entry),
        "annotations": content.add_annotation,
        "categories": lambda entry, _: content.categories.append(entry),
    }
    content.file = _read_lists(file, use, "annotation_bytes")
    return content


def _read_lists(file: Path, use: Mapping[str, Callable[[Any, Span], None]], limit_name: str) -> LargeJson:
    """Call the functions in `use` with the entries of the three lists, and where they are in the file."""
    counts: Counter[str] = Counter()

    def checking(name: str) -> Callable[[Any, Span], None]:
        def check(entry: Any, span: Span) -> None:
            number, counts[name] = counts[name], counts[name] + 1
            if missing := [key for key in _KEYS[name] if not isinstance(entry, dict) or key not in entry]:
                raise DatasetError(f"{file} is not COCO: entry {number} of {name} has no {missing[0]}")
            if wrong := [key for key in _KEYS[name] if key.endswith("id") and isinstance(entry[key], (list, dict))]:
                raise DatasetError(f"{file} is not COCO: entry {number} of {name} has no number as {wrong[0]}")
            use[name](entry, span)

        return check

    try:
        content, found = LargeJson.read_lists(file, {name: checking(name) for name in _KEYS}, limit_name)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}): {_ADVICE}") from None
    if missing := sorted(_KEYS.keys() - found):
        raise DatasetError(
            f"{file} is not COCO: expected lists images, annotations, categories, {missing[0]} is missing"
        )
    return content


def _coco_classes(
    file: Path, categories: Sequence[Mapping[str, Any]], class_ids: ClassIds
) -> tuple[ClassList, dict[int, int]]:
    """Return the classes, and the mask id of each category id."""
    names = {entry["id"]: entry["name"] for entry in categories}
    least = 0 if class_ids == "contiguous" else 1
    # In the convention `category`, each id below the largest becomes a class.
    most = 2**63 if class_ids == "contiguous" else MAX_CLASSES
    if not names or any(type(i) is not int or not least <= i <= most for i in names) or len(names) < len(categories):
        advice = " (0 is the background; class_ids: contiguous numbers them from 1)" if least and 0 in names else ""
        found = short(sorted(str(entry["id"]) for entry in categories), 300)
        of = f"of at least {least}" if class_ids == "contiguous" else f"from {least} to {most}"
        raise DatasetError(f"{file}: expected categories with unique ids {of}{advice}, found {found}")
    ids = sorted(names)
    try:
        if class_ids == "contiguous":
            return ClassList(tuple(names[i] for i in ids)), {i: place for place, i in enumerate(ids, 1)}
        every = range(1, ids[-1] + 1)
        return ClassList(tuple(names.get(i, f"unused {i}") for i in every)), {i: i for i in ids}
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None


def _image_folder(root: Path, split: str) -> Path:
    folders = (root / split, root / "images" / split)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(f"{root} has no images of {split}: expected the folder {folders[0]} or {folders[1]}")


@dataclass(frozen=True)
class _Listed:
    """An image of the list: its file, its ids (several if it is listed several times), and its stated (H, W)."""

    path: Path
    numbers: tuple[int, ...]
    size: tuple[int, int] | None


def _listed_images(file: Path, folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[_Listed]:
    """Return the images of the list, each once; refuse an id of two images, and an image of two sizes."""
    images: dict[Path, _Listed] = {}
    owner: dict[int, Path] = {}
    for entry in entries:
        number = entry["id"]
        if type(number) is not int:
            raise DatasetError(f"{file}: expected whole numbers as image ids, found {short(number)}")
        try:
            path = inside(folder, entry["file_name"])
        except DatasetError as error:
            raise DatasetError(f"{file}: {error}") from None
        image = _Listed(path, (number,), whole_pair([entry.get("height"), entry.get("width")]))
        if owner.setdefault(number, path) != path:
            raise DatasetError(f"{file}: two images have the id {number}: {owner[number].name}, {path.name}")
        before = images.setdefault(path, image)
        if before.size != image.size:
            raise DatasetError(f"{file}: {path.name} is listed with the sizes {before.size} and {image.size}")
        if number not in before.numbers:
            images[path] = replace(before, numbers=(*before.numbers, number))
    return list(images.values())


def _frame_names(paths: Iterable[Path], folder: Path) -> list[str]:
    """Return a unique name for each image: its path in the folder, without the suffix where that is enough."""
    full = [PurePosixPath(path.relative_to(folder)) for path in paths]
    stems = Counter(str(path.with_suffix("")) for path in full)
    names = [str(path if stems[str(path.with_suffix(""))] > 1 else path.with_suffix("")) for path in full]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{folder}: two images would have the name {repeated[0]}: rename one of them")
    return names


def _coco_frame(
    mask: Path, split: str, image: _Listed, name: str, annotations: Sequence[_Annotation], classes: ClassList
) -> FrameRecord:
    present = {classes.names[annotation.mask_id - 1] for annotation in annotations}
    drawn = mask.suffix != ".json" or all(annotation.has_outline for annotation in annotations)
    return FrameRecord(
        recording=split,
        stamp_ns=image.numbers[0],
        color=image.path,
        depth=None,
        mask=mask if drawn else None,
        tags=TagState(tuple(present), marker=TagMarker.COMPLETE),
        segment=image.numbers[0],
        name=name,
    )
