"""The choice between several sources of masks, by their verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import LoadedModel
from deal_core.quality.mask_figures import MEASURED_FRAMES, measure_masks
from deal_core.quality.training_facts import facts_of_training
from deal_core.quality.verdict import Verdict, judge

_CLEARLY = 0.03
"""Difference of two scores that decides; below it, the source that was named first wins."""


@dataclass(frozen=True, eq=False)
class MaskSource:
    """A model that makes masks, and the settings with which it makes them."""

    model: LoadedModel
    settings: CamSettings


def judge_source(
    source: MaskSource, dataset: Dataset, *, advance: Callable[[int], None] = lambda frames: None
) -> Verdict:
    """Return the verdict on the masks that a source makes of at most `MEASURED_FRAMES` frames, evenly spread.

    The masks are written to a temporary folder and removed again.

    Args:
        source: Model and settings.
        dataset: Frames with their tags; drawn masks are not read.
        advance: Function to call with the number of frames that have masks.

    Raises:
        DealError: `write_cams` and `measure_masks` raise it.
    """
    frames = evenly_spread(dataset, MEASURED_FRAMES)
    with TemporaryDirectory(prefix="deal_masks_") as folder:
        for done, _ in enumerate(write_cams(source.model, frames, Path(folder), source.settings), 1):
            advance(done)
        return judge(measure_masks(Path(folder), frames), facts_of_training(source.model.info))


def choose_source(verdicts: Mapping[str, Verdict]) -> str:
    """Return the name of the source with the best masks: one that is not bad, if there is one, with the best score.

    Args:
        verdicts: Verdict on the masks of each source on the same frames, the preferred source first.

    Raises:
        ValueError: there is no verdict.

    >>> choose_source({"cam": Verdict("bad", 0.1, (), ()), "regions": Verdict("doubtful", 0.4, (), ())})
    'regions'
    """
    if not verdicts:
        raise ValueError("expected the verdict on at least one source of masks, found none")
    usable = {name: verdict for name, verdict in verdicts.items() if verdict.grade != "bad"} or dict(verdicts)
    best = max(_score(verdict) for verdict in usable.values())
    return next(name for name, verdict in usable.items() if _score(verdict) > best - _CLEARLY)


def _score(verdict: Verdict) -> float:
    return 0.0 if math.isnan(verdict.score) else verdict.score
