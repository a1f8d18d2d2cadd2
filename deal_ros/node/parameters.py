"""Parameters of a node as a frozen dataclass: name, default, description and limits; changes are validated."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from deal_core.errors import DealError, UsageError, nearest_hint, short
from deal_ros.node.paths import DATA_DIR, PathKind, check_path, check_reachable


class ParameterSet(Protocol):
    """A frozen dataclass whose fields come from `parameter` and whose `__post_init__` calls `check_values`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


P = TypeVar("P", bound=ParameterSet)

_LONGEST_TEXT, _LONGEST_LIST = 4096, 1000
_LONGEST_SHOWN = 100
"""Characters of a wrong value in an error, and of a name in a list on average."""


def parameter(
    default: str | bool | int | float | tuple[str, ...],
    description: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    maximum: float = math.inf,
    live: bool = False,
    fixed: bool = False,
    path: PathKind = "",
) -> Any:
    """Return the dataclass field of one parameter; the default sets its type.

    Args:
        default: the default value. For a tuple, the parameter takes a list of strings, or a string with commas.
        description: description for users, shown by `ros2 param describe` and in the docs.
        choices: allowed values of a string; empty allows any string.
        minimum: smallest allowed value of a number.
        maximum: largest allowed value of a number.
        live: whether the parameter may change after the node is configured.
        fixed: whether the parameter may change at no time.
        path: what the text names, if it is a path; see `deal_ros.node.paths`. The dataclass then has a `data_dir`.
    """
    limits = {"description": description, "choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata={**limits, "live": live, "fixed": fixed, "path": path})


live_parameter = partial(parameter, live=True)
"""`parameter` of a value that may change after the node is configured."""


def data_dir_parameter() -> Any:
    """Return the field of the parameter `data_dir`."""
    return parameter(
        DATA_DIR,
        "Folder below which parameters that somebody sets while the node runs may name files and folders. It is fixed "
        "when the node starts.",
        fixed=True,
        path="folder",
    )


def check_values(values: ParameterSet) -> None:
    """Check each field of a frozen parameter dataclass, and convert it to its type (2 becomes 2.0 for a float).

    Raises:
        UsageError: a value has the wrong type, is outside its limits, is not among its choices or is too long.
    """
    for field in dataclasses.fields(values):
        object.__setattr__(values, field.name, _checked(field, getattr(values, field.name)))


class LiveParameters(Generic[P]):
    """Declare the parameters of a node and keep their validated values up to date.

    Args:
        node: the node that declares the parameters.
        kind: the dataclass of the parameters.
        is_configured: returns whether the node is configured; then only live parameters may change.
        check: called with the new values before they are accepted; raises a UsageError to refuse them.
        on_change: called with the new values after they are accepted.

    Raises:
        UsageError: a value has the wrong type, is outside its limits or is not among its choices.
    """

    def __init__(
        self,
        node: Node,
        kind: type[P],
        *,
        is_configured: Callable[[], bool],
        check: Callable[[P], None] = lambda values: None,
        on_change: Callable[[P], None] = lambda values: None,
    ) -> None:
        self._fields = {field.name: field for field in dataclasses.fields(kind)}
        self._is_configured, self._check, self._on_change = is_configured, check, on_change
        for sentence in _unknown(node._parameter_overrides, self._fields):
            node.get_logger().warning(sentence)
        self._node = node
        self.current: P = kind(**{name: _declare(node, field) for name, field in self._fields.items()})
        self._given = self.current
        _describe(node, {name: _descriptor(field) for name, field in self._fields.items()})
        node.add_on_set_parameters_callback(self._set)

    def _set(self, wanted: Sequence[Parameter]) -> SetParametersResult:
        """Accept all changes or none; ignore parameters that the dataclass does not have (use_sim_time)."""
        changes = {found.name: found.value for found in wanted if found.name in self._fields}
        before = self.current
        try:
            for name in changes:
                self._check_may_change(name)
            changed = dataclasses.replace(before, **changes)
            for name in changes:
                self._check_reachable(name, changed)
            self._check(changed)
            self.current = changed
            if changes:
                self._on_change(changed)
        except DealError as error:
            self.current = before
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # whatever somebody sets, the node goes on
            self.current = before
            self._node.get_logger().error(f"parameters were not set: {traceback.format_exc()}")
            return SetParametersResult(successful=False, reason=f"{type(error).__name__}: {error}")
        return SetParametersResult(successful=True)

    def _check_reachable(self, name: str, changed: P) -> None:
        kind: PathKind = self._fields[name].metadata["path"]
        if kind:
            new, given = getattr(changed, name), getattr(self._given, name)
            check_reachable(name, kind, new, given, getattr(self._given, "data_dir"))  # noqa: B009

    def _check_may_change(self, name: str) -> None:
        if self._fields[name].metadata["fixed"]:
            raise UsageError(f"parameter '{name}' is fixed when the node starts: set it there")
        if self._is_configured() and not self._fields[name].metadata["live"]:
            live = ", ".join(name for name, field in self._fields.items() if field.metadata["live"])
            raise UsageError(
                f"parameter '{name}' was read when the node was configured and cannot change now: set it when you "
                f"start the node, or clean up the lifecycle node first. Parameters that can change: {live or 'none'}"
            )


def expectation(field: dataclasses.Field[Any]) -> str:
    """Return a description of the values that a parameter takes, for example "a number from 0 to 1"."""
    kinds = {str: "text", bool: "true or false", int: "an integer", float: "a number", tuple: "a list of text"}
    kind, limits = kinds[type(field.default)], field.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    low, high = limits["minimum"], limits["maximum"]
    if math.isinf(low):
        return kind
    return f"{kind} from {low:g} to {high:g}" if math.isfinite(high) else f"{kind} of at least {low:g}"


def _declare(node: Node, field: dataclasses.Field[Any]) -> Any:
    # `_checked` checks types: rclpy would refuse the integer 250 for a float, with a message of its own.
    descriptor = ParameterDescriptor(dynamic_typing=True)
    # rclpy cannot infer the type of an empty list.
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    return node.declare_parameter(field.name, default, descriptor).value


def _descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """Return the description of a parameter; a number has a range, which gives it a slider in rqt_reconfigure."""
    limits = field.metadata
    low, high = limits["minimum"], limits["maximum"]
    found = ParameterDescriptor(
        name=field.name,
        description=limits["description"],
        additional_constraints=expectation(field),
        dynamic_typing=True,
    )
    if type(field.default) is float and math.isfinite(low):
        found.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    elif type(field.default) is int and math.isfinite(low) and math.isfinite(high):
        found.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    return found


def _describe(node: Node, descriptors: Mapping[str, ParameterDescriptor]) -> None:
    """Let a node describe its parameters with their ranges.

    The ranges are not given to rclpy, which would check them before `LiveParameters` does and refuse a value without
    saying what is expected.
    """
    of_rclpy = node.describe_parameter

    def describe(name: str) -> ParameterDescriptor:
        return descriptors[name] if name in descriptors else of_rclpy(name)

    node.describe_parameter = describe


def _unknown(given: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return a warning for each parameter that was given to a node but does not exist."""
    return [
        f"unknown parameter '{name}' has no effect.{nearest_hint(name, known)}"
        for name in sorted(given)
        if name not in known and name != "use_sim_time" and not name.startswith("qos_overrides.")
    ]


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    wanted, limits = type(field.default), field.metadata
    if wanted is tuple:
        return _names(field, value)
    if wanted is float and type(value) is int:
        value = float(value)
    if value is False and "off" in limits["choices"]:
        value = "off"  # YAML 1.1 parses `depth_mode:=off` as false
    fits = (
        type(value) is wanted
        and not (isinstance(value, str) and len(value) > _LONGEST_TEXT)
        and (not limits["choices"] or value in limits["choices"])
        and (wanted in (str, bool) or limits["minimum"] <= value <= limits["maximum"])
    )
    if not fits:
        hint = nearest_hint(value[:_LONGEST_SHOWN], limits["choices"]) if isinstance(value, str) else ""
        raise _wrong(field, value, hint)
    if limits["path"]:
        check_path(field.name, value)
    return value


def _names(field: dataclasses.Field[Any], value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    is_list = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) > _LONGEST_LIST or sum(map(len, names)) > _LONGEST_LIST * _LONGEST_SHOWN:
        raise _wrong(field, value)
    return tuple(name.strip() for name in names if name.strip())


def _wrong(field: dataclasses.Field[Any], value: Any, hint: str = "") -> UsageError:
    found = short(value, _LONGEST_SHOWN)
    return UsageError(f"parameter '{field.name}': expected {expectation(field)}, found {found}.{hint}")
