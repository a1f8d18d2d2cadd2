"""Arrays to pictures a person can judge: depth, edges, CAM heat and mask overlays, of single frames and side by side.

`deal evaluate` writes a handful of frames into a run's folder with `PictureWriter`, chosen by `choose_frames`;
the report shows them. `summary_figure` makes the one picture of a README.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import FrameScore, winning_class
from deal_core.files import replacing
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, ClassList, Float32Array, Sample, UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image as PILImage

PICTURE_FOLDER = "pictures"
PICTURE_LIST = "pictures.json"
PICTURE_FORMAT = "deal-pictures"
PICTURE_VERSION = 1
PARTS = ("image", "depth", "edges", "cam", "prediction", "truth")
"""The kinds of picture of one frame, in reading order."""


@dataclass(frozen=True)
class Picture:
    """The pictures of one frame in a run's folder.

    Args:
        key: the frame's name.
        iou: its mIoU; nan where nothing is labelled.
        files: part (one of `PARTS`) to PNG file; parts that were not available are missing.
    """

    key: str
    iou: float
    files: Mapping[str, Path]


def choose_frames(frames: Sequence[FrameScore], count: int = 12) -> tuple[str, ...]:
    """Return the keys of the frames worth showing, worst first.

    Half are the worst; the others are spread evenly over the rest, up to the best one, so that a reader also
    sees typical and good ones. Frames without a figure (nan) are left out; of equal ones, the first key comes first.
    """
    ranked = sorted((f for f in frames if not math.isnan(f.iou)), key=lambda f: (f.iou, f.key))
    worst = ranked[: min((count + 1) // 2, len(ranked))]
    rest = ranked[len(worst) :]
    number = min(count - len(worst), len(rest))
    spread = [rest[round(i)] for i in np.linspace(0, len(rest) - 1, number + 1)[1:]]
    return tuple(frame.key for frame in [*worst, *spread])


def worst_frames(per_run: Sequence[Sequence[FrameScore]], count: int) -> tuple[str, ...]:
    """Return the keys of the frames on which runs fare worst: on the average, and each of them in turn.

    The worst on the average comes first, then the worst of each run, then the second worst on the average and so on;
    no frame comes twice. Frames without a figure (nan) come last.

    Args:
        per_run: the figures of each run, not necessarily of the same frames.
        count: how many; fewer where there are no more.

    Example:
        >>> ours, theirs = [FrameScore("a", 0.2), FrameScore("b", 0.3)], [FrameScore("a", 0.9), FrameScore("b", 0.7)]
        >>> worst_frames([ours, theirs], 2)
        ('b', 'a')
    """
    keys = list(dict.fromkeys(score.key for scores in per_run for score in scores))
    figures = [{score.key: score.iou for score in scores} for scores in per_run]
    average = {key: _mean([of_run.get(key, math.nan) for of_run in figures]) for key in keys}
    orders = [
        [key for key, _ in sorted(of.items(), key=lambda entry: (math.isnan(entry[1]), entry[1]))]
        for of in (average, *figures)
    ]
    chosen: dict[str, None] = {}
    for place in range(len(keys)):
        chosen.update(dict.fromkeys(order[place] for order in orders if place < len(order)))
    return tuple(chosen)[:count]


class PictureWriter:
    """Writes pictures of frames into `<run>/pictures`: `<n>_<part>.png` and pictures.json.

    A context manager. The pictures of an earlier evaluation are replaced when it ends well; when it does not,
    they stay and nothing of this one is left behind. Entering raises EvaluationError where the folder is another's.

    Args:
        run: the run's folder, made if missing.
        classes: names and colours of the masks.

    Example:
        with PictureWriter(run, classes) as pictures:
            pictures.add("kitchen/12", 0.41, image=image, prediction=prediction, truth=mask, depth=depth)
    """

    def __init__(self, run: Path, classes: ClassList) -> None:
        self.classes = classes
        self._folder = run / PICTURE_FOLDER
        self._temporary = run / f".{PICTURE_FOLDER}.{os.getpid()}.tmp"
        self._entries: list[dict[str, Any]] = []

    def __enter__(self) -> PictureWriter:
        if self._folder.exists() and not (self._folder / PICTURE_LIST).is_file():
            raise EvaluationError(
                f"{self._folder} would be replaced, and holds no {PICTURE_LIST}, so no evaluation made it: choose "
                "another run folder"
            )
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def add(
        self,
        key: str,
        iou: float,
        *,
        image: UInt8Array,
        prediction: UInt8Array,
        truth: UInt8Array | None = None,
        depth: Float32Array | None = None,
        depth_valid: BoolArray | None = None,
        scores: npt.NDArray[Any] | None = None,
        tags: npt.NDArray[Any] | None = None,
    ) -> None:
        """Write the pictures of one frame; all arrays of one height and width.

        Args:
            key: the frame's name.
            iou: its mIoU, shown beside it.
            image: (H, W, 3) uint8 RGB.
            prediction: (H, W) ids.
            truth: (H, W) ids, 255 unlabelled.
            depth: (H, W) metres; its edges are shown too, see `depth_edge_picture`.
            depth_valid: (H, W) bool; finite and positive depth when left out.
            scores: (K, H, W) CAM in [0, 1]; the strongest present class is shown as heat.
            tags: (K,) which classes of `scores` are present; all when left out.

        Raises:
            ValueError: an array has another height or width than the image.
        """
        given = {"prediction": prediction, "truth": truth, "depth": depth, "depth_valid": depth_valid}
        for what, array in (*given.items(), ("scores", None if scores is None else scores[0])):
            if array is not None and array.shape != image.shape[:2]:
                raise ValueError(f"expected the {what} in the image's size {image.shape[:2]}, found {array.shape}")
        parts = {"image": image, "prediction": mask_overlay(image, prediction, self.classes)}
        if truth is not None:
            parts["truth"] = mask_overlay(image, truth, self.classes)
        if depth is not None:
            parts["depth"] = depth_picture(depth, depth_valid)
            parts["edges"] = depth_edge_picture(depth, depth_valid)
        if scores is not None:
            parts["cam"] = heat_overlay(image, winning_class(scores, tags)[0])
        index, files = len(self._entries), {}
        for part in PARTS:
            if part in parts:
                files[part] = f"{index}_{part}.png"
                _write_png(self._temporary / files[part], parts[part])
        self._entries.append({"key": key, "iou": iou if math.isfinite(iou) else None, "files": files})

    def add_sample(
        self, sample: Sample, iou: float, prediction: UInt8Array, scores: npt.NDArray[Any] | None = None
    ) -> None:
        """Write the pictures of a frame of a dataset; arguments as `add`."""
        has_depth = sample.depth_valid.any()
        self.add(
            sample.key,
            iou,
            image=sample.image,
            prediction=prediction,
            truth=sample.mask,
            depth=sample.depth if has_depth else None,
            depth_valid=sample.depth_valid if has_depth else None,
            scores=scores,
        )

    def _finish(self) -> None:
        listing = {"format": PICTURE_FORMAT, "version": PICTURE_VERSION, "pictures": self._entries}
        (self._temporary / PICTURE_LIST).write_text(json.dumps(listing, indent=1) + "\n", "utf-8")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._temporary.replace(self._folder)


def read_pictures(run: Path) -> tuple[Picture, ...]:
    """Return the pictures in a run's folder, worst first; none where none were written.

    Raises:
        EvaluationError: the list cannot be read, names a file outside the folder, or a file is missing.
    """
    folder = run / PICTURE_FOLDER
    listing = folder / PICTURE_LIST
    if not listing.is_file():
        return ()
    try:
        value = json.loads(listing.read_text("utf-8"))
        if (value.get("format"), value.get("version")) != (PICTURE_FORMAT, PICTURE_VERSION):
            raise ValueError(f"expected the format '{PICTURE_FORMAT}' of version {PICTURE_VERSION}")
        pictures = [_read_entry(folder, entry) for entry in value["pictures"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        kind = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise EvaluationError(f"{listing}: {kind}. Write it again with `deal evaluate`") from None
    return tuple(sorted(pictures, key=lambda p: (math.isnan(p.iou), p.iou)))


def depth_picture(depth: Float32Array, valid: BoolArray | None = None) -> UInt8Array:
    """Return depth (H, W) in metres as (H, W, 3) RGB: near bright, far dark blue, no measurement black.

    The colours span the middle 96 % of the measured depths of this image.
    """
    measured = np.isfinite(depth) & (depth > 0)
    known = measured if valid is None else measured & valid
    picture = np.zeros((*depth.shape, 3), np.uint8)
    if known.any():
        near, far = np.percentile(depth[known], [2, 98])
        closeness = np.where(known, (far - depth) / max(far - near, 1e-6), 0).clip(0, 1)
        picture = np.where(known[..., None], _colormap(closeness, cv2.COLORMAP_VIRIDIS), np.uint8(0))
    return picture


def depth_edge_picture(depth: Float32Array, valid: BoolArray | None = None) -> UInt8Array:
    """Return the edges of min-max depth as (H, W, 3) RGB: white where strong, blue where nothing is known.

    These are the loss function's own defaults; a training may remove the slope first, and so see fainter tables.
    """
    import torch

    from deal_core.losses.depth_edge import depth_edges

    measured = np.isfinite(depth) & (depth > 0)
    known = measured if valid is None else measured & valid
    height, width = depth.shape
    edges = depth_edges(
        torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None, None],
        torch.from_numpy(known)[None, None],
        size=(max(height // 2, 1), max(width // 2, 1)),
    )
    # The loss takes 0.076 for an edge; the square root makes that visible.
    strength = edges.strength.sqrt()[0, 0].numpy()
    weight = edges.weight[0, 0].numpy()
    gray = np.rint(strength * weight * 255).astype(np.uint8)
    picture = np.where(weight[..., None] > 0, gray[..., None], np.array([38, 52, 92], np.uint8))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def heat_overlay(image: UInt8Array, heat: npt.NDArray[Any]) -> UInt8Array:
    """Return a heat map (H, W) in [0, 1] over the greyed image (H, W, 3), as RGB."""
    strength = heat.astype(np.float32).clip(0, 1)
    colored = _colormap(strength, cv2.COLORMAP_INFERNO).astype(np.float32)
    opacity = (0.25 + 0.6 * strength)[..., None]
    return np.rint((1 - opacity) * 0.8 * _gray(image) + opacity * colored).clip(0, 255).astype(np.uint8)


def mask_overlay(image: UInt8Array, mask: UInt8Array, classes: ClassList) -> UInt8Array:
    """Return a mask (H, W) in its classes' colours over the dimmed, greyed image (H, W, 3), as RGB.

    Outlines are drawn in full colour; unlabelled pixels (255) are hatched.
    """
    palette = classes.palette().astype(np.float32)
    gray = _gray(image)
    colors = palette[mask]
    fill = 0.45 * gray + 0.55 * colors
    filled = (mask != BACKGROUND)[..., None]
    picture = np.where(filled, fill, 0.7 * gray)
    rows, columns = np.indices(mask.shape)
    hatch = (mask == UNLABELLED) & ((rows + columns) // 2 % 3 == 0)
    picture[hatch] = 225
    outline = _outline(mask) & (mask != BACKGROUND) & (mask != UNLABELLED)
    picture[outline] = colors[outline]
    return np.rint(picture).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class SummaryFrame:
    """One row of `summary_figure`; all arrays of one height and width.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) metres.
        truth: (H, W) ids.
        predictions: one (H, W) mask a run, in the order of the figure's runs.
        depth_valid: (H, W) bool; finite and positive depth when left out.
    """

    image: UInt8Array
    depth: Float32Array
    truth: UInt8Array
    predictions: Sequence[UInt8Array]
    depth_valid: BoolArray | None = None


@dataclass(frozen=True)
class SummaryRun:
    """A run in the heading of `summary_figure`: its title and its mIoU (0..1) on the whole set."""

    title: str
    miou: float


def summary_figure(
    path: Path,
    frames: Sequence[SummaryFrame],
    runs: Sequence[SummaryRun],
    classes: ClassList,
    *,
    title: str = "",
    max_bytes: int = 500_000,
) -> Path:
    """Write one PNG: a row a frame; image, depth edges, each run's masks, and the truth.

    Args:
        path: the PNG to write.
        frames: the rows, three or four look best.
        runs: titles and mIoU of the columns of predictions.
        classes: names and colours, for the masks and the legend.
        title: above everything.
        max_bytes: the resolution is lowered until the file is no larger.

    Raises:
        ValueError: no frame, a frame with another number of predictions than runs.
    """
    if not frames:
        raise ValueError("expected at least one frame, found none")
    for frame in frames:
        if len(frame.predictions) != len(runs):
            raise ValueError(f"expected {len(runs)} predictions a frame, found {len(frame.predictions)}")
    with replacing(path) as temporary:
        for dpi in (160, 130, 110, 90, 75, 60, 45):
            _draw_summary(temporary, frames, runs, classes, title, dpi)
            if temporary.stat().st_size <= max_bytes:
                break
    return path


def _draw_summary(
    path: Path,
    frames: Sequence[SummaryFrame],
    runs: Sequence[SummaryRun],
    classes: ClassList,
    title: str,
    dpi: int,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from PIL import Image

    columns = [("Image", ""), ("Depth edges", "")]
    columns += [(run.title, f"{100 * run.miou:.1f} mIoU") for run in runs]
    columns.append(("Truth", ""))
    height, width = frames[0].image.shape[:2]
    cell_width = 1.9
    cell_height = cell_width * height / width
    top, bottom, gap = 0.50 + (0.38 if title else 0.0), 0.42, 0.05
    full_width = len(columns) * (cell_width + gap) + gap
    full_height = top + bottom + len(frames) * (cell_height + gap)
    figure = Figure(figsize=(full_width, full_height), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    if title:
        figure.text(0.5, 1 - 0.22 / full_height, title, ha="center", va="center", fontsize=13, weight="bold")
    for row, frame in enumerate(frames):
        for column, picture in enumerate(_summary_row(frame, classes)):
            left = gap + column * (cell_width + gap)
            low = full_height - top - (row + 1) * cell_height - row * gap
            axes: Axes = figure.add_axes(
                (left / full_width, low / full_height, cell_width / full_width, cell_height / full_height)
            )
            axes.imshow(picture, interpolation="lanczos", aspect="auto")
            axes.set_axis_off()
    for column, (heading, figures) in enumerate(columns):
        x = (gap + column * (cell_width + gap) + cell_width / 2) / full_width
        y = 1 - (top - 0.33) / full_height
        figure.text(x, y, heading, ha="center", va="center", fontsize=9.5, color="#1a1f2b")
        if figures:
            figure.text(x, y - 0.18 / full_height, figures, ha="center", va="center", fontsize=9, weight="bold")
    figure.legend(
        handles=[
            Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=name)
            for name, color in zip(classes.names, classes.colors, strict=True)
        ],
        loc="lower center",
        ncol=min(len(classes), 10),
        frameon=False,
        fontsize=8.5,
        handlelength=1.0,
        handleheight=1.0,
    )
    canvas.draw()
    page = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    _few_colors(page, classes).save(path, format="PNG", optimize=True)


def _few_colors(page: PILImage, classes: ClassList) -> PILImage:
    """Return the page in at most 256 colours: a third of the bytes. The classes' own colours are among them."""
    from PIL import Image

    own = [component for color in classes.colors[:64] for component in color]
    # The others come from every 16th pixel: k-means over all of them takes long and finds the same.
    sample = page.resize((max(page.width // 4, 1), max(page.height // 4, 1)), Image.Resampling.NEAREST)
    found = sample.quantize(256 - len(own) // 3, Image.Quantize.MEDIANCUT, kmeans=3).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + found[: 768 - len(own)])
    return page.quantize(palette=palette, dither=Image.Dither.NONE)


def _summary_row(frame: SummaryFrame, classes: ClassList) -> list[UInt8Array]:
    edges = depth_edge_picture(frame.depth, frame.depth_valid)
    masks = (mask_overlay(frame.image, mask, classes) for mask in (*frame.predictions, frame.truth))
    return [frame.image, edges, *masks]


def _read_entry(folder: Path, entry: Mapping[str, Any]) -> Picture:
    files = {}
    for part, name in entry["files"].items():
        if part not in PARTS or Path(name).name != name:
            raise ValueError(f"expected a picture of {', '.join(PARTS)} in {folder}, found {part}: {name!r}")
        if not (folder / name).is_file():
            raise ValueError(f"the picture {name} is missing")
        files[part] = folder / name
    iou = entry["iou"]
    return Picture(str(entry["key"]), math.nan if iou is None else float(iou), files)


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; nan where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _write_png(path: Path, picture: UInt8Array) -> None:
    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: cannot encode a picture of shape {picture.shape}")
    path.write_bytes(data.tobytes())


def _colormap(values: npt.NDArray[Any], colormap: int) -> UInt8Array:
    indices = np.rint(np.asarray(values, np.float32) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(indices, colormap), cv2.COLOR_BGR2RGB).astype(np.uint8)


def _gray(image: UInt8Array) -> Float32Array:
    """Return the image as (H, W, 1) luminance, 0..255."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]


def _outline(mask: UInt8Array) -> BoolArray:
    """Return the pixels that touch another id to the right or below, on both sides of the border."""
    edge = np.zeros(mask.shape, np.bool_)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge
