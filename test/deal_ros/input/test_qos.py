"""Which reliability to ask for."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible

from deal_ros.input.qos import choose_reliability, image_qos, is_incompatible, labels_qos, mask_qos, reliability_name

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(
    ("wanted", "offers", "current", "expected"),
    [
        ("auto", [], None, RELIABLE),
        ("auto", [], BEST_EFFORT, BEST_EFFORT),
        ("auto", [RELIABLE], BEST_EFFORT, RELIABLE),
        ("auto", [BEST_EFFORT], RELIABLE, BEST_EFFORT),
        ("auto", [RELIABLE, BEST_EFFORT], None, BEST_EFFORT),
        ("auto", [ReliabilityPolicy.SYSTEM_DEFAULT], None, RELIABLE),
        ("reliable", [BEST_EFFORT], None, RELIABLE),
        ("best_effort", [RELIABLE], None, BEST_EFFORT),
    ],
)
def test_reliability_follows_the_offers(
    wanted: str, offers: list[ReliabilityPolicy], current: ReliabilityPolicy | None, expected: ReliabilityPolicy
) -> None:
    assert choose_reliability(wanted, offers, current) == expected


@pytest.mark.parametrize("request_", [RELIABLE, BEST_EFFORT])
@pytest.mark.parametrize("offer", [RELIABLE, BEST_EFFORT])
def test_incompatible_means_what_the_middleware_means(request_: ReliabilityPolicy, offer: ReliabilityPolicy) -> None:
    verdict, _ = qos_check_compatible(QoSProfile(depth=1, reliability=offer), image_qos(request_))
    assert is_incompatible(request_, [offer]) == (verdict == QoSCompatibility.ERROR)
    assert not is_incompatible(request_, []) and not is_incompatible(request_, [offer, RELIABLE])


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT])
def test_everybody_can_read_the_outputs(reliability: ReliabilityPolicy) -> None:
    for offered in (mask_qos(), labels_qos()):
        verdict, _ = qos_check_compatible(offered, QoSProfile(depth=1, reliability=reliability))
        assert verdict != QoSCompatibility.ERROR
    assert labels_qos().durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_names_are_the_parameters_words() -> None:
    assert [reliability_name(p) for p in (RELIABLE, BEST_EFFORT)] == ["reliable", "best_effort"]
