"""Parameters of any node: declared from a dataclass, checked at start and at every live change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.node.parameters import LiveParameters, check_values, data_dir_parameter, parameter
from deal_ros.recorder.parameters import RecorderParameters
from deal_ros.segmentation.parameters import SegmentationParameters
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters


@dataclass(frozen=True)
class Wanted:
    place: str = parameter("kitchen", "Where.", choices=("kitchen", "orchard"))
    rate_hz: float = parameter(5.0, "How often.", minimum=0.0, maximum=30.0, live=True)
    names: tuple[str, ...] = parameter((), "What.", live=True)
    loud: bool = parameter(False, "Whether to beep.", live=True)

    def __post_init__(self) -> None:
        check_values(self)


@pytest.fixture
def new_node(new_domain: Callable[[], int]) -> Iterator[Callable[..., Any]]:
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    nodes: list[Any] = []

    def make(**given: Any) -> Any:
        overrides = [rclpy.Parameter(name, value=value) for name, value in given.items()]
        nodes.append(rclpy.create_node("n", context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def set_one(node: Any, name: str, value: Any) -> Any:
    import rclpy

    return node.set_parameters([rclpy.Parameter(name, value=value)])[0]


def test_defaults_and_given_values_are_checked_and_typed(new_node: Callable[..., Any]) -> None:
    node = new_node(rate_hz=2, names=["mug", " drill "], loud=True)
    found = LiveParameters(node, Wanted, is_configured=lambda: True).current
    assert found == Wanted("kitchen", 2.0, ("mug", "drill"), True) and isinstance(found.rate_hz, float)
    assert node.describe_parameter("rate_hz").additional_constraints == "a number from 0 to 30"


NUMBERS = [
    pytest.param(field, id=f"{kind.__name__}.{field.name}")
    for kind in (SegmentationParameters, RecorderParameters, SyntheticCameraParameters)
    for field in fields(kind)
    if type(field.default) in (int, float) and math.isfinite(field.metadata["minimum"])
]


def alone(field: Any) -> Any:
    """Return a dataclass with one parameter, since others may forbid a value."""
    own = parameter(
        field.default, "What.", minimum=field.metadata["minimum"], maximum=field.metadata["maximum"], live=True
    )
    return make_dataclass(
        "One", [(field.name, type(field.default), own)], namespace={"__post_init__": check_values}, frozen=True
    )


@pytest.mark.parametrize("field", NUMBERS)
def test_every_legal_number_is_accepted_and_others_are_refused_with_a_reason(
    new_node: Callable[..., Any], field: Any
) -> None:
    """The ranges in the descriptors, which give rqt its sliders, must not forbid a value that the node allows."""
    node, kind = new_node(), type(field.default)
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    live = LiveParameters(node, alone(field), is_configured=lambda: True)
    found = node.describe_parameter(field.name)
    ranges = found.floating_point_range if kind is float else found.integer_range
    if math.isfinite(high) or kind is float:
        (limits,) = ranges
        assert (limits.from_value, limits.to_value, limits.step) == (low, high, 0)
    top = high if math.isfinite(high) else 1e6
    legal = [low, top, field.default, *(low + share * (top - low) for share in (1e-9, 0.123456789, 1 / 3, 0.999))]
    legal += [] if kind is int or math.isfinite(high) else [math.inf]
    for value in [kind(value) for value in legal] + [math.ceil(low), math.floor(top)]:
        assert set_one(node, field.name, value).successful, value
        assert getattr(live.current, field.name) == value
    for value in (low - 1, *([high + 1] if math.isfinite(high) else [])):
        refused = set_one(node, field.name, kind(value))
        assert not refused.successful and refused.reason.startswith(f"parameter '{field.name}': expected a"), value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"place": "kitchn"}, r"'place': expected one of kitchen, orchard, found 'kitchn'.* Did you mean 'kitchen'"),
        ({"rate_hz": 31.0}, r"'rate_hz': expected a number from 0 to 30, found 31.0"),
        ({"names": [1, 2]}, r"'names': expected a list of text, found"),
        ({"loud": "yes"}, r"'loud': expected true or false, found 'yes'"),
    ],
)
def test_a_wrong_value_keeps_the_node_from_starting(
    new_node: Callable[..., Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        LiveParameters(new_node(**given), Wanted, is_configured=lambda: True)


def test_text_is_a_list_split_at_commas() -> None:
    assert Wanted(names="mug, drill,").names == ("mug", "drill")  # type: ignore[arg-type]
    assert Wanted(names="").names == ()  # type: ignore[arg-type]


def test_a_live_parameter_changes_and_a_wrong_value_is_refused_with_its_reason(new_node: Callable[..., Any]) -> None:
    changes: list[Wanted] = []
    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: True, on_change=changes.append)
    assert set_one(node, "rate_hz", 10.0).successful
    assert live.current.rate_hz == 10.0 and changes == [live.current]
    refused = set_one(node, "rate_hz", -1.0)
    assert not refused.successful
    assert refused.reason == "parameter 'rate_hz': expected a number from 0 to 30, found -1.0."
    assert live.current.rate_hz == 10.0 == node.get_parameter("rate_hz").value and len(changes) == 1


def test_other_parameters_change_only_until_the_node_is_configured(new_node: Callable[..., Any]) -> None:
    configured = False
    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: configured)
    assert set_one(node, "place", "orchard").successful and live.current.place == "orchard"
    configured = True
    refused = set_one(node, "place", "kitchen")
    assert not refused.successful and live.current.place == "orchard"
    assert "'place' was read when the node was configured" in refused.reason
    assert "Parameters that can change: rate_hz, names, loud" in refused.reason


def test_several_changes_are_taken_together_or_not_at_all(new_node: Callable[..., Any]) -> None:
    import rclpy

    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: True)
    both = [rclpy.Parameter("rate_hz", value=7.0), rclpy.Parameter("place", value="orchard")]
    assert not node.set_parameters_atomically(both).successful
    assert live.current == Wanted()


def test_what_the_node_itself_refuses_is_refused(new_node: Callable[..., Any]) -> None:
    def no_cats(values: Wanted) -> None:
        if "cat" in values.names:
            raise UsageError("parameter 'names': the model knows no cat")

    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: True, check=no_cats)
    assert set_one(node, "names", ["cat"]).reason == "parameter 'names': the model knows no cat"
    assert live.current.names == ()


def test_a_parameter_of_ros_itself_is_left_alone(new_node: Callable[..., Any]) -> None:
    node = new_node()
    changes: list[Wanted] = []
    LiveParameters(node, Wanted, is_configured=lambda: True, on_change=changes.append)
    assert set_one(node, "use_sim_time", True).successful and changes == []


def test_a_name_that_the_node_does_not_have_is_named(new_node: Callable[..., Any], capfd: Any) -> None:
    LiveParameters(new_node(rate_hs=3.0), Wanted, is_configured=lambda: True)
    assert "unknown parameter 'rate_hs' has no effect. Did you mean 'rate_hz'?" in capfd.readouterr().err


@dataclass(frozen=True)
class WithPaths:
    model: str = parameter("", "Which.", live=True, path="file")
    folder: str = parameter("", "Where.", path="folder")
    data_dir: str = data_dir_parameter()

    def __post_init__(self) -> None:
        check_values(self)


def test_what_is_set_later_stays_in_the_folders_of_the_start(new_node: Callable[..., Any], tmp_path: Path) -> None:
    node = new_node(model=f"{tmp_path}/models/one", data_dir=f"{tmp_path}/data")
    live = LiveParameters(node, WithPaths, is_configured=lambda: False)
    assert live.current.model == f"{tmp_path}/models/one", "the operator may name any path"
    for name, path in (("model", "models/two"), ("model", "data/x"), ("folder", "data/y"), ("folder", "data")):
        assert set_one(node, name, f"{tmp_path}/{path}").successful, path
    for name, path in (("model", "x"), ("model", "models"), ("folder", "models"), ("folder", "")):
        refused = set_one(node, name, f"{tmp_path}/{path}")
        assert not refused.successful and "takes a path below" in refused.reason, path
    assert not set_one(node, "data_dir", "/").successful and live.current.data_dir == f"{tmp_path}/data"
    assert set_one(node, "folder", "").successful, "the default"


def test_no_value_is_endless(new_node: Callable[..., Any]) -> None:
    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: True)
    endless: list[tuple[str, Any]] = [("place", "x" * 10**6), ("names", ["x"] * 10**5), ("names", "x" * 10**6)]
    for name, value in [*endless, ("rate_hz", math.inf), ("rate_hz", math.nan)]:
        refused = set_one(node, name, value)
        assert not refused.successful and len(refused.reason) < 500
    assert live.current == Wanted()


def test_a_change_that_fails_is_taken_back(new_node: Callable[..., Any]) -> None:
    def fail(values: Wanted) -> None:
        raise ValueError("no such thing")

    node = new_node()
    live = LiveParameters(node, Wanted, is_configured=lambda: True, on_change=fail)
    refused = set_one(node, "loud", True)
    assert (refused.successful, refused.reason) == (False, "ValueError: no such thing")
    assert live.current == Wanted() and node.get_parameter("loud").value is False
