"""The runs that a table needs, checked together before the first one starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.errors import ConfigError, UsageError, nearest_hint
from deal_core.experiments.definitions import BENCHMARKS, Benchmark, CamRecipe, Part, Variant, cam_recipe
from deal_core.experiments.published import PUBLISHED_SEEDS
from deal_core.files import replacing
from deal_core.models.model_file import MODEL_FILE
from deal_core.settings_file import load_settings
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
    """What is asked for.

    Args:
        benchmark: voc, coco, hope, synthetic.
        data: the dataset's folder.
        out: folder for everything that is made.
        presets: folder of `<benchmark>-<model>.yaml`, settings as `deal train` takes them.
        depth: folder of estimated depth (`deal depth`).
        models: names of presets; those of the paper when empty.
        variants: names; when empty all that can be had with this depth.
        seeds: one run each.
        val: measure on the validation list as well.
        full_train: measure on all images of the training set as well.
        scales: of the CAMs, in place of the published recipe's.
        overrides: settings for all runs such as `epochs=3`, or for one model: `seam:optimizer.momentum=0.9`.
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


@dataclass(frozen=True)
class Evaluation:
    """A part of the dataset to measure a run on.

    Args:
        part: train, full_train or val; also the folder within the run's.
        arguments: of `deal evaluate`, about the frames and the CAMs.
        threshold_of: the part whose automatic threshold is taken; None where the arguments or the model give one.
    """

    part: str
    arguments: tuple[str, ...]
    threshold_of: str | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One training and its evaluations.

    Args:
        model: name of the preset.
        variant: what is added to the network's own losses.
        preset: the settings file.
        overrides: what is changed in it.
        settings: both together.
        evaluations: of the trained model.
    """

    model: str
    variant: Variant
    preset: Path
    overrides: tuple[str, ...]
    settings: TrainSettings
    evaluations: tuple[Evaluation, ...]

    @property
    def key(self) -> str:
        """`<model>/<variant>/seed-<seed>`, the run's folder within the experiment's."""
        return f"{self.model}/{self.variant.name}/seed-{self.settings.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings.output

    @property
    def model_file(self) -> Path:
        """Where the trained model will be."""
        return self.folder / MODEL_FILE


@dataclass(frozen=True)
class Plan:
    """All runs of a table, those of one seed after another so that an early look compares like with like."""

    benchmark: Benchmark
    out: Path
    runs: tuple[PlannedRun, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """What each run is measured on."""
        return tuple(evaluation.part for evaluation in self.runs[0].evaluations)


def make_plan(options: ExperimentOptions) -> Plan:
    """Return the runs that the options ask for, each with complete settings.

    Raises:
        UsageError: an unknown benchmark, model or variant, a bad seed, or options that do not go together.
        ConfigError: a preset or an override that is wrong.
        DatasetError: the folder of estimated depth is no such folder.
    """
    benchmark = find_benchmark(options.benchmark)
    models = _chosen(options.models or benchmark.default_models, _known_models(options), "model")
    variants = _choose_variants(benchmark, options)
    seeds = _check_seeds(options.seeds)
    if options.full_train and "full_train" not in benchmark.parts:
        raise UsageError(f"--full-train: 'train' of {benchmark.name} is all of its training set already")
    data, out, depth = _absolute(options.data), _absolute(options.out), options.depth and _absolute(options.depth)
    _check_depth(benchmark, variants, depth)
    names = [name for name in ("train", "full_train", "val") if name in benchmark.parts]
    wanted = {"train", *(["full_train"] if options.full_train else []), *(["val"] if options.val else [])}
    parts = {name: benchmark.parts[name] for name in names if name in wanted}

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
        recipe = cam_recipe(benchmark.name, settings.model.name)
        if options.scales:
            recipe = replace(recipe, scales=options.scales)
        evaluations = [_evaluation(name, part, settings, recipe) for name, part in parts.items()]
        return PlannedRun(model, variant, preset, overrides, settings, tuple(evaluations))

    runs = [run(model, variant, seed) for seed in seeds for model in models for variant in variants]
    return Plan(benchmark, out, tuple(runs))


def check_data(plan: Plan) -> None:
    """Read the lists of all frames to train and measure on, so that missing files are reported once, before any run.

    Raises:
        DatasetError: files of the dataset are missing or contradict each other.
    """
    data = plan.runs[0].settings.data
    parts = [plan.benchmark.trained_on, *(plan.benchmark.parts[name] for name in plan.parts)]
    for split, recordings in dict.fromkeys((part.split, part.recordings) for part in parts):
        source = SourceSettings(path=data.path, format=data.format, split=split, recordings=recordings)
        open_dataset(source)


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        UsageError: there is no benchmark of this name.
    """
    return BENCHMARKS[_chosen([name], BENCHMARKS, "benchmark")[0]]


def claim_folder(out: Path, about: dict[str, Any]) -> None:
    """Make the folder of an experiment, or check that it belongs to this experiment.

    Args:
        out: the folder.
        about: what must not change between two calls, as JSON values: benchmark, dataset, depth.

    Raises:
        UsageError: it holds something else.
    """
    path = out / EXPERIMENT_FILE
    about = {"format": _FORMAT, "version": _VERSION, **about}
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} is there and no experiment's folder: choose another --out, or remove it")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): choose another --out") from None
    there = there if isinstance(there, dict) else {}
    other = [key for key in {**there, **about} if there.get(key) != about.get(key)]
    if other:
        told = ", ".join(f"{key} is {there.get(key)!r} there and {about.get(key)!r} here" for key in other)
        raise UsageError(f"{out} holds another experiment ({told}): choose another --out")


def _known_models(options: ExperimentOptions) -> list[str]:
    prefix = f"{options.benchmark}-"
    files = sorted(options.presets.glob(f"{prefix}*.yaml")) if options.presets.is_dir() else []
    if not files:
        raise UsageError(f"{options.presets}: expected presets such as {prefix}weaktr.yaml there, found none")
    return [file.stem.removeprefix(prefix) for file in files]


def _choose_variants(benchmark: Benchmark, options: ExperimentOptions) -> list[Variant]:
    known = {variant.name: variant for variant in benchmark.variants}
    if options.variants:
        return [known[name] for name in _chosen(options.variants, known, "variant")]
    published = known.values() if benchmark.name != "hope" else [known["baseline"], known["deal"]]
    estimated = [known["deal-estimated"]] if benchmark.name == "hope" and options.depth else []
    return [*published, *estimated]


def _chosen(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return the names without repetition; every one must be known."""
    known, chosen = list(known), list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UsageError(f"unknown {what} '{name}': expected {', '.join(known)}.{nearest_hint(name, known)}")
    return chosen


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        found = ", ".join(map(str, seeds)) or "none"
        raise UsageError(f"--seeds: expected different whole numbers from 0 on, found {found}")
    return list(seeds)


def _check_depth(benchmark: Benchmark, variants: Sequence[Variant], depth: Path | None) -> None:
    """Refuse depth that is missing, and depth that nothing would read."""
    estimated = [variant.name for variant in variants if variant.estimated_depth]
    if depth is not None:
        if benchmark.has_depth and not estimated:
            raise UsageError(
                f"--depth: the images of {benchmark.name} have depth of their own, and none of the variants takes the "
                "estimated one"
            )
        DepthMaps.open(depth)
    elif not benchmark.has_depth:
        raise UsageError(
            f"{benchmark.name} has no depth of its own, and DEAL and the automatic threshold read it: estimate it with "
            "`deal depth` and pass the folder as --depth"
        )
    elif estimated:
        raise UsageError(
            f"variant '{estimated[0]}' reads estimated depth: make it with `deal depth`, pass it as --depth"
        )


def _overrides_of(model: str, overrides: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the overrides that apply to the model, those for all before those for it alone."""
    for_all, for_it = [], []
    for override in overrides:
        key, sign, value = override.partition("=")
        owner, colon, setting = key.rpartition(":")
        if not sign:
            hint = " Lists are given with commas: --seeds 11,42" if override.isdigit() else ""
            raise UsageError(f"expected a setting like epochs=3 or seam:epochs=3, found '{override}'.{hint}")
        if colon and owner not in models:
            raise UsageError(f"'{override}': model '{owner}' is not run here, but {', '.join(models)}")
        if setting in _OURS:
            raise ConfigError(f"'{override}': {setting} is given by {_OURS[setting]} in an experiment")
        if not colon:
            for_all.append(override)
        elif owner == model:
            for_it.append(f"{setting}={value}")
    return [*for_all, *for_it]


def _check_weights(variant: Variant, settings: TrainSettings, preset: Path) -> None:
    for loss in sorted(variant.losses):
        if getattr(settings, loss).weight == 0:
            raise ConfigError(f"{preset}: {loss}.weight is 0, and variant '{variant.name}' needs it: expected more")


def _evaluation(name: str, part: Part, settings: TrainSettings, recipe: CamRecipe) -> Evaluation:
    """Return how a part is measured: the arguments of `deal evaluate` that differ from its defaults.

    The threshold in the model file is that of default CAMs. For others the same rule chooses it anew, on the training
    images alone.
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
    if recipe == CamRecipe():
        return Evaluation(name, tuple(arguments))
    if name != "train":
        return Evaluation(name, tuple(arguments), threshold_of="train")
    if source.depth is not None:
        arguments += ["--depth", str(source.depth)]
    return Evaluation(name, (*arguments, "--threshold-rule", settings.threshold_rule))


def _quoted(value: Path | str | None) -> str:
    """Return YAML that reads back as this text, whatever is in it."""
    return json.dumps(None if value is None else str(value))


def _absolute(path: Path) -> Path:
    """Return the path from the root on: a run goes on wherever the command is called from."""
    return Path(os.path.abspath(path))
