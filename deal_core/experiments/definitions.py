"""The parts of the paper's table: the benchmarks, the variants, and how CAMs are made for each network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deal_core.dataset.choices import Layout
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.experiments.choices import BenchmarkName
from deal_core.masks.choices import ImageSize, Normalisation
from deal_core.synthetic.recording import SyntheticConfig, SyntheticFrame, render_scenes, write_recording

LossName = Literal["deal", "isl", "fsl"]
LOSSES: tuple[LossName, ...] = ("deal", "isl", "fsl")


@dataclass(frozen=True)
class Variant:
    """One way to train: the losses that are added to the network's own, with the weights of the preset.

    Args:
        name: as in the table.
        losses: what is added; the others are switched off.
        estimated_depth: takes the estimated depth where the benchmark has a sensor's.
    """

    name: str
    losses: frozenset[LossName] = frozenset()
    estimated_depth: bool = False

    def overrides(self) -> list[str]:
        """Return the settings that switch off what this variant is without."""
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
    """Frames of a dataset to train on or to measure on.

    Args:
        split: list of the dataset's layout; "" for a deal dataset, which has none.
        recordings: of a deal dataset; all when empty.
        frames: at most so many, evenly spread; None is all.
    """

    split: str = ""
    recordings: tuple[str, ...] = ()
    frames: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """A dataset and its protocol.

    Args:
        name: as on the command line.
        title: for people.
        format: layout of the dataset, as `SourceSettings.format`.
        trained_on: frames to train on.
        parts: frames to measure on, by name: `train`, `val`, and `full_train` where `train` is not all of them.
        variants: those that can be asked for.
        default_models: those of the paper.
        has_depth: whether the images come with a sensor's depth.
    """

    name: BenchmarkName
    title: str
    format: Layout
    trained_on: Part
    parts: Mapping[str, Part]
    variants: tuple[Variant, ...]
    default_models: tuple[str, ...]
    has_depth: bool


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="voc",
            title="PASCAL VOC 2012",
            format="voc",
            trained_on=Part("train_aug"),
            # CAMs are measured on the 1,464 images that VOC itself has masks for.
            parts={"train": Part("train"), "full_train": Part("train_aug"), "val": Part("val")},
            variants=_PAPER_VARIANTS,
            default_models=("weaktr", "seam"),
            has_depth=False,
        ),
        Benchmark(
            name="coco",
            title="MS COCO 2014",
            format="coco",
            trained_on=Part("train2014"),
            # As many images of the training set as WeakTr measures on; all 82,783 take longer than the training.
            parts={
                "train": Part("train2014", frames=1250),
                "full_train": Part("train2014"),
                "val": Part("val2014"),
            },
            variants=_PAPER_VARIANTS,
            default_models=("weaktr",),
            has_depth=False,
        ),
        Benchmark(
            name="hope",
            title="HOPE, static onboarding",
            format="bop",
            # Each object was recorded twice, standing up and upside down. How the paper divides them is not
            # published; here the two poses are apart.
            trained_on=Part("onboarding_static:up"),
            parts={"train": Part("onboarding_static:up"), "val": Part("onboarding_static:down")},
            variants=(*_PAPER_VARIANTS, _ESTIMATED),
            default_models=("weaktr",),
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
            variants=_PAPER_VARIANTS,
            default_models=("weaktr", "seam"),
            has_depth=True,
        ),
    )
}

TRAIN_SCENES, TEST_SCENES = 150, 40


def synthetic_scenes(train: int = TRAIN_SCENES, test: int = TEST_SCENES) -> dict[str, SyntheticConfig]:
    """Return what the recordings of the synthetic benchmark show; scenes of the two have nothing in common.

    Args:
        train: tabletops to train on, of 6 views each.
        test: tabletops to measure on, of 5 views each.
    """
    return {
        "train": SyntheticConfig(seed=1, scenes=train, frames_per_scene=6, width=160, height=120),
        "test": SyntheticConfig(seed=7_000, scenes=test, frames_per_scene=5, width=160, height=120),
    }


def make_scenes(
    folder: Path,
    scenes: Mapping[str, SyntheticConfig],
    render: Callable[[str, SyntheticConfig], Iterable[SyntheticFrame]] = lambda name, config: render_scenes(config),
) -> Path:
    """Write the recordings that are missing, and extract all; return the dataset.

    Args:
        folder: of `recordings/<name>` and `dataset`.
        scenes: what each recording shows.
        render: renders one, where the caller watches its frames go by.

    Raises:
        RecordingError: a recording cannot be written.
        DatasetError: the dataset holds others, or cannot be written.
    """
    for name, config in scenes.items():
        recording = folder / "recordings" / name
        if not recording.exists():
            write_recording(recording, config, render(name, config))
        extract_recording(recording, folder / "dataset", ExtractOptions())
    return folder / "dataset"


@dataclass(frozen=True)
class CamRecipe:
    """How the CAMs that are measured are made; each scale also mirrored.

    Args:
        scales: factors on the size of the image.
        size: "image" scales the image itself, as published, "model" the size that the network was trained at.
        normalise: how a map becomes a score: "min_max" as published, or "max".
    """

    scales: tuple[float, ...] = (1.0,)
    size: ImageSize = "model"
    normalise: Normalisation = "max"


_RECIPES = {
    ("voc", "weaktr"): CamRecipe((1.0, 1.2), "image", "min_max"),
    ("coco", "weaktr"): CamRecipe((1.0, 0.8, 1.2), "image", "min_max"),
    ("voc", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), "image", "min_max"),
    ("coco", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), "image", "min_max"),
    # Attention over a whole image of HOPE takes tens of gigabytes, and no recipe is published.
    ("hope", "weaktr"): CamRecipe((1.0, 1.2), normalise="min_max"),
    ("hope", "seam"): CamRecipe((0.5, 1.0, 1.5, 2.0), normalise="min_max"),
}


def cam_recipe(benchmark: str, network: str) -> CamRecipe:
    """Return the published recipe of a network (`TrainSettings.model.name`) on a benchmark; else the default."""
    return _RECIPES.get((benchmark, network), CamRecipe())
