"""How probable it is that a tag is wrong, from held-out log-odds and the given tags alone.

The given tags are those of a person who errs at a constant rate: P(present | s) = (1 - e0) p + e1 (1 - p) with the
logistic p = σ(a s + b) of the class, where e0 is the share of the present classes that are tagged absent, and e1 that
of the absent ones that are tagged present (logistic regression with misclassified responses, Copas 1988). The
tails of the scores tell the rates, and Bayes' rule how probable it is that a tag is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deal_core.structures import BoolArray, Float32Array, Float64Array

_LARGEST_RATE = 0.45
_PRIOR_RATE, _PRIOR_TAGS = 0.05, 2.0
_PRIOR_SHIFT = 2.0
_STEPS = 300


@dataclass(frozen=True, eq=False)
class Suspicion:
    """How probable it is that tags are wrong.

    Args:
        wrong: (N, K) probability that the tag is wrong, in [0, 1]; nan for unknown tags.
        missed: Estimated share of the present classes that are tagged absent.
        invented: Estimated share of the absent classes that are tagged present.
    """

    wrong: Float64Array
    missed: float
    invented: float


def suspect(odds: Float32Array, tags: Float32Array) -> Suspicion:
    """Return how probable it is that each tag is wrong.

    Args:
        odds: (N, K) held-out log-odds of presence.
        tags: (N, K) tags: 1 present, 0 absent, nan unknown.
    """
    known = ~np.isnan(tags)
    scale = float(odds[known].std()) or 1.0
    s = torch.from_numpy(odds / scale).double()
    y = torch.from_numpy(np.where(known, tags, 0)).double()
    mask = torch.from_numpy(known)
    slope, shift = torch.zeros((), dtype=torch.float64), torch.zeros(s.shape[1], dtype=torch.float64)
    rates = torch.full((2,), float(np.log(_PRIOR_RATE / (_LARGEST_RATE - _PRIOR_RATE))), dtype=torch.float64)
    parameters = [parameter.requires_grad_() for parameter in (slope, shift, rates)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def model() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sigmoid(slope.exp() * s + shift), _LARGEST_RATE * torch.sigmoid(rates)

    def closure() -> torch.Tensor:
        p, (e0, e1) = model()
        given = ((1 - e0) * p + e1 * (1 - p)).clamp(1e-9, 1 - 1e-9)
        loss = -torch.where(mask, y * given.log() + (1 - y) * (1 - given).log(), 0.0).sum()
        for rate in (e0, e1):  # as if some tags had been seen with the prior rate
            loss = loss - _PRIOR_TAGS * (_PRIOR_RATE * rate.log() + (1 - _PRIOR_RATE) * (1 - rate).log())
        loss = loss + (shift / _PRIOR_SHIFT).square().sum() / 2
        optimizer.zero_grad()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        p, (e0, e1) = model()
        if_present = e1 * (1 - p) / (e1 * (1 - p) + (1 - e0) * p).clamp(min=1e-12)
        if_absent = e0 * p / (e0 * p + (1 - e1) * (1 - p)).clamp(min=1e-12)
        wrong = torch.where(y == 1, if_present, if_absent)
    return Suspicion(np.where(known, wrong.numpy(), np.nan), float(e0), float(e1))


def list_worst(wrong: Float64Array, least_precision: float) -> BoolArray:
    """Return (N, K) the longest list of the most suspicious tags whose mean probability is at least a precision.

    Args:
        wrong: (N, K) probability that the tag is wrong; nan for unknown tags.
        least_precision: In (0, 1].
    """
    flat = np.nan_to_num(wrong, nan=-1.0).ravel()
    order = np.argsort(-flat, kind="stable")
    order = order[flat[order] >= 0]
    precision = np.cumsum(flat[order]) / np.arange(1, len(order) + 1)
    long_enough = np.flatnonzero(precision >= least_precision)
    chosen = np.zeros(wrong.size, bool)
    if len(long_enough):
        chosen[order[: long_enough[-1] + 1]] = True
    return chosen.reshape(wrong.shape)
