"""A domain in which a participant lives is never given out."""

from __future__ import annotations

import itertools
import socket
from contextlib import ExitStack

import pytest

from deal_ros.node.domains import unused_domains


def listen(stack: ExitStack, domain: int, participant: int) -> None:
    end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    end.bind(("", 7400 + 250 * domain + 10 + 2 * participant))


@pytest.mark.ros
def test_a_domain_with_a_participant_of_ros_is_left_out() -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
    taken = next(unused_domains(start=40))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=taken)
    node = rclpy.create_node("listener", context=context)
    try:
        assert taken not in itertools.islice(unused_domains(start=40), 30)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_one_whose_first_participant_has_left_is_still_in_use() -> None:
    with ExitStack() as stack:
        taken = next(unused_domains(start=60))
        listen(stack, taken, 3)
        assert taken not in itertools.islice(unused_domains(start=60), 30)


def test_steps_keep_workers_apart_and_go_round() -> None:
    first, second = (set(itertools.islice(unused_domains(7 + worker, 2, largest=8), 4)) for worker in (0, 1))
    assert not first & second and first | second <= set(range(1, 9))
    assert list(itertools.islice(unused_domains(largest=1), 3)) == [1, 1, 1]


def test_no_domain_left_is_an_error() -> None:
    with ExitStack() as stack:
        listen(stack, 1, 0)
        listen(stack, 2, 1)
        with pytest.raises(RuntimeError, match="ROS domain from 1 to 2 without a process"):
            next(unused_domains(largest=2))
