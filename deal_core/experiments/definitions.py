"""Definitions of the paper's table: the benchmarks, the variants, and the CAM settings of each network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deal_core.dataset.choices import Layout
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.experiments.choices import BenchmarkName
from deal_core.masks.choices import ImageSize, Normalisation, Precision
from deal_core.synthetic.recording import SyntheticConfig, SyntheticFrame, render_scenes, write_recording
from deal_core.synthetic.world import World

LossName = Literal["deal", "isl", "fsl"]
LOSSES: tuple[LossName, ...] = ("deal", "isl", "fsl")


@dataclass(frozen=True)
class Variant:
    """One variant of the training: the losses in addition to the network's own, with the weights of the preset.

    Args:
        name: Name in the table.
        losses: Added losses; all others are turned off.
        estimated_depth: Whether to use estimated depth on a benchmark with sensor depth.
    """

    name: str
    losses: frozenset[LossName] = frozenset()
    estimated_depth: bool = False

    def overrides(self) -> list[str]:
        """Return the settings that turn off the losses which the variant does not use."""
        return [f"{loss}.weight=0" for loss in LOSSES if loss not in self.losses]


BASELINE = Variant("baseline")
_PAPER_VARIANTS = (
    BASELINE,
    Variant("deal", frozenset({"deal"})),
    Variant("isl-fsl", frozenset({"isl", "fsl"})),
    Variant("deal+isl-fsl", frozenset({"deal", "isl", "fsl"})),
)
_ESTIMATED = Variant("deal-estimated", frozenset({"deal"}), estimated_depth=True)


@dataclass(frozen=True)
class Part:
    """Frames of a dataset for training or evaluation.

    Args:
        split: Split of the dataset; "" for a deal dataset, which has none.
        recordings: Recordings of a deal dataset; default: all.
        frames: Largest number of frames, evenly spread; None for all.
    """

    split: str = ""
    recordings: tuple[str, ...] = ()
    frames: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """A dataset and its protocol.

    Args:
        name: Name on the command line.
        title: Title for users.
        format: Layout of the dataset, as in `SourceSettings.format`.
        trained_on: Training frames.
        parts: Evaluation frames by name: `train`, `val`, and `full_train` if `train` is a subset of it.
        has_depth: Whether the images have sensor depth.
        variants: Available variants.
        default_models: Models of the paper.
    """

    name: BenchmarkName
    title: str
    format: Layout
    trained_on: Part
    parts: Mapping[str, Part]
    has_depth: bool
    variants: tuple[Variant, ...] = _PAPER_VARIANTS
    default_models: tuple[str, ...] = ("weaktr",)


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="voc",
            title="PASCAL VOC 2012",
            format="voc",
            trained_on=Part("train_aug"),
            # CAMs are evaluated on the 1,464 images with masks from VOC itself.
            parts={"train": Part("train"), "full_train": Part("train_aug"), "val": Part("val")},
            default_models=("weaktr", "seam"),
            has_depth=False,
        ),
        Benchmark(
            name="coco",
            title="MS COCO 2014",
            format="coco",
            trained_on=Part("train2014"),
            # WeakTr also evaluates on 1,250 training images; all 82,783 images take longer than the training.
            parts={"train": Part("train2014", frames=1250), "full_train": Part("train2014"), "val": Part("val2014")},
            has_depth=False,
        ),
        Benchmark(
            name="hope",
            title="HOPE, static onboarding",
            format="bop",
            # Each object has two recordings, upright and upside down. The split of the paper is not published; here
            # each pose is one split.
            trained_on=Part("onboarding_static:up"),
            parts={"train": Part("onboarding_static:up"), "val": Part("onboarding_static:down")},
            variants=(*_PAPER_VARIANTS, _ESTIMATED),
            has_depth=True,
        ),
        Benchmark(
            name="synthetic",
            title="synthetic tabletops",
            format="deal",
            trained_on=Part(recordings=("train",)),
            parts={
                "train": Part(recordings=("train",), frames=300),
                "full_train": Part(recordings=("train",)),
                "val": Part(recordings=("test",)),
            },
            default_models=("weaktr", "seam"),
            has_depth=True,
        ),
    )
}

TRAIN_SCENES, TEST_SCENES = 150, 40


def synthetic_scenes(train: int = TRAIN_SCENES, test: int = TEST_SCENES) -> dict[str, SyntheticConfig]:
    """Return the configurations of the two recordings of the synthetic benchmark, which share no scenes.

    Args:
        train: Number of tabletops for training, with 6 views each.
        test: Number of tabletops for evaluation, with 5 views each.
    """
    return {
        "train": SyntheticConfig(seed=1, scenes=train, frames_per_scene=6, width=160, height=120),
        "test": SyntheticConfig(seed=7_000, scenes=test, frames_per_scene=5, width=160, height=120),
    }


def make_scenes(
    folder: Path,
    scenes: Mapping[str, World],
    render: Callable[[str, World], Iterable[SyntheticFrame]] = lambda name, config: render_scenes(config),
) -> Path:
    """Write the missing recordings, extract all, and return the dataset folder.

    Args:
        folder: Folder of `recordings/<name>` and `dataset`.
        scenes: Configuration of each recording.
        render: Function that renders a recording, for callers that report its progress.

    Raises:
        RecordingError: a recording cannot be written.
        DatasetError: the dataset has other recordings, or cannot be written.
    """
    for name, config in scenes.items():
        recording = folder / "recordings" / name
        if not recording.exists():
            write_recording(recording, config, render(name, config))
        extract_recording(recording, folder / "dataset", ExtractOptions())
    return folder / "dataset"


@dataclass(frozen=True)
class CamRecipe:
    """Settings of the evaluated CAMs; each scale is also mirrored.

    Args:
        scales: Factors on the image size.
        size: Size at scale 1: of the "image", as published, or the input size of the "model".
        normalise: Normalisation of a map: "min_max", as published, or "max".
        precision: Numbers of the network: "32", as published, or "bf16".
    """

    scales: tuple[float, ...] = (1.0,)
    size: ImageSize = "model"
    normalise: Normalisation = "max"
    precision: Precision = "32"


_RECIPES = {
    ("voc", "weaktr"): CamRecipe((1.0, 1.2), "image", "min_max"),
    ("coco", "weaktr"): CamRecipe((1.0, 0.8, 1.2), "image", "min_max"),
    ("voc", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), "image", "min_max"),
    ("coco", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), "image", "min_max"),
    # Attention over a whole image of HOPE takes tens of gigabytes, and there is no published recipe.
    ("hope", "weaktr"): CamRecipe((1.0, 1.2), normalise="min_max"),
    ("hope", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), normalise="min_max"),
}


def cam_recipe(benchmark: str, network: str) -> CamRecipe:
    """Return the published recipe of a network (`TrainSettings.model.name`) on a benchmark; else the default."""
    return _RECIPES.get((benchmark, network), CamRecipe())
