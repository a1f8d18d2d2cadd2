"""The part of an evaluation that needs the network: the decisions of all frames, by one process or by several."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from deal_core.dataset.dataset import Dataset, with_masks
from deal_core.evaluation.decided_frames import DecidedFrame, DecidedFrames
from deal_core.evaluation.shards import WHOLE, Shard
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import threshold_grid
from deal_core.masks.score_dataset import CamSettings, check_use, decision_threshold, frames_at_once, score_frames
from deal_core.masks.threshold_rules import FixedRule, ThresholdRule, create_rule, need_depth_for_rule
from deal_core.models.model_file import LoadedModel
from deal_core.structures import Float64Array

DECISIONS_FOLDER = "evaluation_frames"
"""Folder of the decisions in a run folder, while the evaluation has not ended."""

Advance = Callable[[int], None]
"""Called with the number of steps done."""

_log = logging.getLogger(__name__)


class Decisions:
    """Makes the decisions of frames with a model.

    Args:
        model: Model to evaluate.
        dataset: Frames; frames without a mask are left out.
        settings: Settings of the scores.
        threshold_rule: Rule of the automatic threshold; None: the threshold of the model.

    Raises:
        DatasetError: no frame has a mask.
        ModelFileError: the model is for other classes.
        ConfigError: the threshold rule is unknown.
        UsageError: `check_use` raises it, or the rule needs depth and the dataset has none.
    """

    def __init__(self, model: LoadedModel, dataset: Dataset, settings: CamSettings, threshold_rule: str | None) -> None:
        check_use(model.info, dataset, settings)
        self.model, self.dataset, self.settings = model, with_masks(dataset), settings
        self._records = {record.key: record for record in self.dataset.frames}
        self._asked = threshold_rule
        self._own = decision_threshold(model, settings)
        self.rule_name = threshold_rule or self._own.rule
        rule = self._new_rule()
        fixed = [rule.threshold()] if isinstance(rule, FixedRule) else []
        self._thresholds: Float64Array = np.union1d(threshold_grid(), fixed)
        # The bin of a sweep for each bin of these thresholds.
        self._bins = np.concatenate([[0], np.isin(self._thresholds, threshold_grid()).cumsum()])
        if threshold_rule:
            need_depth_for_rule(threshold_rule, dataset)

    @contextmanager
    def opened(self, folder: Path | None, shard: Shard = WHOLE, *, join: bool = False) -> Iterator[DecidedFrames]:
        """Open the decisions in a run folder, or temporary ones.

        Args:
            folder: The run folder; None for temporary files.
            shard: The share that will be written.
            join: Whether to take the decisions of other shares, too.

        Raises:
            EvaluationError: another process writes them, or they cannot be opened.
        """
        path = folder and folder / DECISIONS_FOLDER / shard.name
        others = [file for file in sorted(path.parent.glob("*.frames")) if file != path] if path and join else []
        decided = DecidedFrames(self._thresholds, path, self._about(), others)
        if decided.foreign:
            _log.warning(
                "%s: %d of %d shards were evaluated with another model or other options, and are made again",
                path and path.parent,
                decided.foreign,
                len(others),
            )
        try:
            yield decided
        finally:
            decided.close()

    def make(self, decided: DecidedFrames, shard: Shard, advance: Advance) -> int:
        """Decide the frames of a share that are not kept yet, in whole batches, and return their number.

        Args:
            decided: Where the decisions are kept.
            shard: The share.
            advance: Function to call with the number of processed frames, kept ones included.
        """
        batches = shard.batches(self.dataset.frames, frames_at_once(self.settings))
        rest = [batch for batch in batches if not all(self._is_kept(decided, frame.key) for frame in batch)]
        missing = {frame.key for batch in rest for frame in batch}
        total = sum(map(len, batches))
        if len(missing) < total:
            advance(total - len(missing))
        frames = score_frames(self.model, self.dataset.subset(predicate=lambda f: f.key in missing), self.settings)
        for done, frame in enumerate(frames, total - len(missing) + 1):
            rule, sample = self._new_rule(), frame.sample
            rule.update(frame.scores, sample.depth, sample.depth_valid, frame.tags)
            decided.keep(frame.scores, frame.tags, sample, rule.sums)
            advance(done)
        return total

    def nothing(self) -> tuple[ThresholdSweep, ThresholdRule]:
        """Return the counts of no frame."""
        return ThresholdSweep(len(self.dataset.classes)), self._new_rule()

    def counts(self, frame: DecidedFrame) -> tuple[ThresholdSweep, ThresholdRule]:
        """Return the counts of one frame at all thresholds, and the sums of the rule."""
        sweep, rule = self.nothing()
        sweep.count(frame.ids, self._bins[frame.bins], frame.truth)
        sweep.add_tags(frame.tags)
        rule.add(frame.sums)
        return sweep, rule

    def _new_rule(self) -> ThresholdRule:
        return create_rule(self._asked, self.dataset.depth_kind) if self._asked else FixedRule(self._own.value)

    def _about(self) -> str:
        """Return what the decisions depend on, besides the frames and the device."""
        settings = {**asdict(self.settings), "device": ""}
        about = [self.model.sha256, settings, self._asked, self.dataset.depth_kind, self.dataset.classes.names]
        return json.dumps(about, default=str)

    def _is_kept(self, decided: DecidedFrames, key: str) -> bool:
        """Return whether a frame is kept and has not changed since; only then its files are read."""
        return decided.may_have(key) and decided.has(self.dataset.load(self._records[key]))


def forget_decisions(folder: Path) -> None:
    """Remove the decisions of frames from a run folder, once the result is written."""
    shutil.rmtree(folder / DECISIONS_FOLDER, ignore_errors=True)
