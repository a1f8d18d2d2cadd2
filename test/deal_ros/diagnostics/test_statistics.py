"""Percentiles over the last results."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.diagnostics.statistics import ResultStatistics


def test_statistics_summarise_the_last_results() -> None:
    statistics = ResultStatistics()
    assert np.isnan(statistics.summary.age_at_start_ms.p50)
    for age in range(1000):
        statistics.add_result(age, age + 10.0, 5.0, None if age % 2 else 0.25)
    summary = statistics.summary
    last = np.arange(700, 1000)
    assert summary.age_at_start_ms.p50 == pytest.approx(np.median(last))
    assert summary.age_at_publish_ms.p99 == pytest.approx(np.percentile(last, 99) + 10)
    assert summary.inference_ms.p50 == 5.0 and summary.valid_depth == 0.25
