"""The choice between several sources of masks, by their verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deal_core.quality.verdict import Verdict

_CLEARLY = 0.03
"""Difference of two scores that decides; below it, the source that was named first wins."""


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
