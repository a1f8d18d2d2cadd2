"""Shares of the frames: each frame is in one of them, in the batches of the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import UsageError
from deal_core.evaluation.shards import WHOLE, Shard


@given(frames=st.integers(0, 40), at_once=st.integers(1, 9), count=st.integers(1, 6))
def test_shares_are_the_batches_of_the_whole(frames: int, at_once: int, count: int) -> None:
    every: Any = list(range(frames))
    batches = WHOLE.batches(every, at_once)
    assert [frame for batch in batches for frame in batch] == every
    shares = [Shard(number, count).batches(every, at_once) for number in range(1, count + 1)]
    assert sorted(batch for share in shares for batch in share) == batches
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_a_share_that_exists_can_be_named() -> None:
    assert Shard.parse("4/4") == Shard(4, 4) and Shard(4, 4).name != Shard(4, 5).name
    for wrong in ("0/4", "5/4", "4", "a/b", "1/", "", "-1/2", "1/2/3", "²/4"):
        with pytest.raises(UsageError, match=r"expected a shard like 2/4"):
            Shard.parse(wrong)
