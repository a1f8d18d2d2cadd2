"""The runs of a table, all checked before the first one starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.errors import ConfigError, UsageError, nearest_hint, short
from deal_core.experiments.definitions import BENCHMARKS, Benchmark, CamRecipe, Part, Variant, cam_recipe
from deal_core.experiments.published import PUBLISHED_SEEDS
from deal_core.files import os_errors_as, replacing
from deal_core.masks.choices import Precision
from deal_core.models.model_file import MODEL_FILE
from deal_core.ownership import is_empty, remove_leftovers
from deal_core.settings_file import load_settings
from deal_core.text_formats import read_json
from deal_core.trainer.settings import TrainSettings

EXPERIMENT_FILE = "experiment.json"
_FORMAT, _VERSION = "deal-experiment", 1
_OURS = {
    "output": "--out",
    "seed": "--seeds",
    "data.path": "--data",
    "data.format": "the benchmark",
    "data.split": "the benchmark",
    "data.recordings": "the benchmark",
    "data.depth": "--depth",
}


@dataclass(frozen=True)
class ExperimentOptions:
    """The options of an experiment.

    Args:
        benchmark: voc, coco, hope or synthetic.
        data: Folder of the dataset.
        out: Folder for all results.
        presets: Folder of `<benchmark>-<model>.yaml`, with settings as for `deal train`.
        depth: Folder of estimated depth (`deal depth`).
        models: Names of presets; default: the models of the paper.
        variants: Names of variants; default: all that are possible with this depth.
        seeds: Seeds, with one run per model, variant and seed.
        val: Whether to evaluate on the validation split as well.
        full_train: Whether to evaluate on all images of the training set as well.
        scales: Scales of the CAMs; default: the published recipe.
        overrides: Settings for all runs such as `epochs=3`, or for one model such as `seam:optimizer.momentum=0.9`.
        cam_precision: Numbers of the networks in the evaluations: "32" or "bf16".
    """

    benchmark: str
    data: Path
    out: Path
    presets: Path
    depth: Path | None = None
    models: Sequence[str] = ()
    variants: Sequence[str] = ()
    seeds: Sequence[int] = PUBLISHED_SEEDS
    val: bool = True
    full_train: bool = False
    scales: tuple[float, ...] = ()
    overrides: Sequence[str] = ()
    cam_precision: Precision = "32"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run on a part of the dataset.

    Args:
        part: train, full_train or val; also the name of the subfolder of the run.
        arguments: Arguments of `deal evaluate` for the frames and the CAMs.
        threshold_of: Part that provides the automatic threshold; None if the arguments or the model provide it.
    """

    part: str
    arguments: tuple[str, ...]
    threshold_of: str | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One training and its evaluations.

    Args:
        model: Name of the preset.
        variant: Variant of the training.
        preset: Settings file.
        overrides: Overrides of the settings file.
        settings: Complete settings.
        evaluations: Evaluations of the trained model.
        recipe: Settings of the evaluated CAMs.
    """

    model: str
    variant: Variant
    preset: Path
    overrides: tuple[str, ...]
    settings: TrainSettings
    evaluations: tuple[Evaluation, ...]
    recipe: CamRecipe = field(default_factory=CamRecipe)

    @property
    def key(self) -> str:
        """`<model>/<variant>/seed-<seed>`, the run folder relative to the folder of the experiment."""
        return f"{self.model}/{self.variant.name}/seed-{self.settings.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings.output

    @property
    def model_file(self) -> Path:
        """The path of the trained model."""
        return self.folder / MODEL_FILE


@dataclass(frozen=True)
class Plan:
    """All runs of a table, ordered by seed, so that intermediate results are comparable."""

    benchmark: Benchmark
    out: Path
    runs: tuple[PlannedRun, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the evaluation of each run."""
        return tuple(evaluation.part for evaluation in self.runs[0].evaluations)


def make_plan(options: ExperimentOptions) -> Plan:
    """Return the runs of the options, each with complete settings.

    Raises:
        UsageError: a benchmark, model or variant is unknown, a seed is invalid, or options contradict each other.
        ConfigError: a preset or an override is invalid.
        DatasetError: the folder of estimated depth cannot be read.
    """
    benchmark = find_benchmark(options.benchmark)
    models = _chosen(options.models or benchmark.default_models, _known_models(options), "model")
    variants = _choose_variants(benchmark, options)
    seeds = _check_seeds(options.seeds)
    if options.full_train and "full_train" not in benchmark.parts:
        raise UsageError(f"--full-train: 'train' of {benchmark.name} is all of its training set already")
    data, out, depth = _absolute(options.data), _absolute(options.out), options.depth and _absolute(options.depth)
    _check_depth(benchmark, variants, depth)
    wanted = {"train": True, "full_train": options.full_train, "val": options.val}
    parts = {name: benchmark.parts[name] for name in wanted if wanted[name] and name in benchmark.parts}

    def run(model: str, variant: Variant, seed: int) -> PlannedRun:
        taken = depth if not benchmark.has_depth or variant.estimated_depth else None
        trained_on = benchmark.trained_on
        overrides = (
            *_overrides_of(model, options.overrides, models),
            *variant.overrides(),
            f"data.path={_quoted(data)}",
            f"data.format={benchmark.format}",
            f"data.split={_quoted(trained_on.split)}",
            f"data.recordings={json.dumps(trained_on.recordings)}",
            f"data.depth={_quoted(taken)}",
            f"seed={seed}",
            f"output={_quoted(out / model / variant.name / f'seed-{seed}')}",
        )
        preset = options.presets / f"{benchmark.name}-{model}.yaml"
        settings = load_settings(TrainSettings, preset, overrides)
        _check_weights(variant, settings, preset)
        recipe = replace(cam_recipe(benchmark.name, settings.model.name), precision=options.cam_precision)
        if options.scales:
            recipe = replace(recipe, scales=options.scales)
        evaluations = [_evaluation(name, part, settings, recipe) for name, part in parts.items()]
        return PlannedRun(model, variant, preset, overrides, settings, tuple(evaluations), recipe)

    runs = [run(model, variant, seed) for seed in seeds for model in models for variant in variants]
    return Plan(benchmark, out, tuple(runs))


def check_data(plan: Plan) -> None:
    """Read the frame lists for training and evaluation, to report missing files before the first run.

    Raises:
        DatasetError: files of the dataset are missing or contradict each other.
    """
    data = plan.runs[0].settings.data
    parts = [plan.benchmark.trained_on, *(plan.benchmark.parts[name] for name in plan.parts)]
    for split, recordings in dict.fromkeys((part.split, part.recordings) for part in parts):
        open_dataset(SourceSettings(path=data.path, format=data.format, split=split, recordings=recordings))


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name; raise `UsageError` if there is none."""
    return BENCHMARKS[_chosen([name], BENCHMARKS, "benchmark")[0]]


def claim_folder(out: Path, about: dict[str, Any]) -> None:
    """Make the folder of an experiment, or check that it is this one's and remove what killed processes left there.

    Args:
        out: Folder of the experiment.
        about: JSON values that must not change between two calls: benchmark, dataset, depth.

    Raises:
        UsageError: the folder has other content.
    """
    path = out / EXPERIMENT_FILE
    about = {"format": _FORMAT, "version": _VERSION, **about}
    if not path.exists():
        if out.exists() and (not out.is_dir() or not is_empty(out)):
            raise UsageError(f"{out} exists, but is no experiment's folder: choose another --out, or remove it")
        with os_errors_as(UsageError, f"{path} cannot be written"), replacing(path) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return
    try:
        there = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): choose another --out") from None
    there = there if isinstance(there, dict) else {}
    other = [key for key in {**there, **about} if there.get(key) != about.get(key)]
    if other:
        told = ", ".join(f"{key} is {short(there.get(key))} there and {short(about.get(key))} here" for key in other)
        raise UsageError(f"{out} holds another experiment ({told}): choose another --out")
    remove_leftovers(out)


def _known_models(options: ExperimentOptions) -> list[str]:
    prefix = f"{options.benchmark}-"
    files = sorted(options.presets.glob(f"{prefix}*.yaml")) if options.presets.is_dir() else []
    if not files:
        raise UsageError(f"{options.presets}: expected presets such as {prefix}weaktr.yaml, found none")
    return [file.stem.removeprefix(prefix) for file in files]


def _choose_variants(benchmark: Benchmark, options: ExperimentOptions) -> list[Variant]:
    known = {variant.name: variant for variant in benchmark.variants}
    if options.variants:
        return [known[name] for name in _chosen(options.variants, known, "variant")]
    published = known.values() if benchmark.name != "hope" else [known["baseline"], known["deal"]]
    estimated = [known["deal-estimated"]] if benchmark.name == "hope" and options.depth else []
    return [*published, *estimated]


def _chosen(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return the names without repetitions; raise `UsageError` for an unknown name."""
    known, chosen = list(known), list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UsageError(f"unknown {what} '{name}': expected {', '.join(known)}.{nearest_hint(name, known)}")
    return chosen


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        found = ", ".join(map(str, seeds)) or "none"
        raise UsageError(f"--seeds: expected different whole numbers of at least 0, found {found}")
    return list(seeds)


def _check_depth(benchmark: Benchmark, variants: Sequence[Variant], depth: Path | None) -> None:
    """Raise `UsageError` if depth is missing or would not be used."""
    estimated = [variant.name for variant in variants if variant.estimated_depth]
    if depth is not None:
        if benchmark.has_depth and not estimated:
            raise UsageError(
                f"--depth: the images of {benchmark.name} have sensor depth, and no variant uses estimated depth"
            )
        DepthMaps.open(depth)
    elif not benchmark.has_depth:
        raise UsageError(
            f"{benchmark.name} has no depth, which DEAL and the automatic threshold need: estimate it with "
            "`deal depth` and pass the folder as --depth"
        )
    elif estimated:
        raise UsageError(
            f"variant '{estimated[0]}' needs estimated depth: make it with `deal depth`, pass it as --depth"
        )


def _overrides_of(model: str, overrides: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the overrides for the model: first those for all models, then those for this one."""
    for_all, for_it = [], []
    for override in overrides:
        key, sign, value = override.partition("=")
        owner, colon, setting = key.rpartition(":")
        if not sign:
            hint = " Lists are given with commas: --seeds 11,42" if override.isdigit() else ""
            raise UsageError(f"expected a setting like epochs=3 or seam:epochs=3, found '{override}'.{hint}")
        if colon and owner not in models:
            raise UsageError(f"'{override}': model '{owner}' is not one of the chosen models {', '.join(models)}")
        if setting in _OURS:
            raise ConfigError(f"'{override}': in an experiment, {_OURS[setting]} sets {setting}")
        if not colon:
            for_all.append(override)
        elif owner == model:
            for_it.append(f"{setting}={value}")
    return [*for_all, *for_it]


def _check_weights(variant: Variant, settings: TrainSettings, preset: Path) -> None:
    for loss in sorted(variant.losses):
        if getattr(settings, loss).weight == 0:
            raise ConfigError(f"{preset}: {loss}.weight is 0, but variant '{variant.name}' needs a larger one")


def _evaluation(name: str, part: Part, settings: TrainSettings, recipe: CamRecipe) -> Evaluation:
    """Return the evaluation of a part, with the arguments of `deal evaluate` that differ from its defaults.

    The threshold in the model file is for default CAMs. For other CAMs, the same rule chooses one on training images.
    """
    source = settings.data
    arguments = ["--scales", ",".join(map(str, recipe.scales)), "--device", settings.device]
    if source.format != "deal":
        arguments += ["--as", source.format, "--split", part.split]
    if source.class_ids != "contiguous":
        arguments += ["--class-ids", source.class_ids]
    for recording in part.recordings:
        arguments += ["--recording", recording]
    if part.frames is not None:
        arguments += ["--frames", str(part.frames)]
    arguments += ["--size", recipe.size, "--normalise", recipe.normalise]
    if recipe.precision != "32":
        arguments += ["--precision", recipe.precision]
    if recipe == CamRecipe():
        return Evaluation(name, tuple(arguments))
    if name != "train":
        return Evaluation(name, tuple(arguments), threshold_of="train")
    if source.depth is not None:
        arguments += ["--depth", str(source.depth)]
    return Evaluation(name, (*arguments, "--threshold-rule", settings.threshold_rule))


def _quoted(value: Path | str | None) -> str:
    """Return the value as quoted YAML."""
    return json.dumps(None if value is None else str(value))


def _absolute(path: Path) -> Path:
    """Return the absolute path, so that a run can resume from any working directory."""
    return Path(os.path.abspath(path))
