"""The segmentation node's parameters: name, default, meaning and limits of each in one place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from deal_core.errors import UsageError, nearest_hint


def _parameter(
    default: Any,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    maximum: float = math.inf,
) -> Any:
    limits = {"description": description, "choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True)
class SegmentationParameters:
    """Values as read and checked at start; the fields are the parameters."""

    model: str = _parameter("", "Path of the model file (.safetensors). Must be set.")
    device: str = _parameter("auto", "Where the network runs: auto (the GPU where there is one), cpu, cuda or cuda:N.")
    precision: str = _parameter(
        "auto",
        "Arithmetic of the network; auto is float16 on a GPU and float32 on the CPU.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    warmup_iterations: int = _parameter(
        3, "Images segmented before the first real one, so that it is not slowed.", minimum=0, maximum=1000
    )
    depth_mode: str = _parameter(
        "optional",
        "off: depth is not subscribed. optional: depth is used if the model does, and colour goes on alone "
        "when its depth is late. required: only pairs are segmented.",
        choices=("off", "optional", "required"),
    )
    sync_policy: str = _parameter(
        "exact",
        "exact pairs equal stamps (RealSense with aligned depth), approximate pairs stamps within sync_slop_ms.",
        choices=("exact", "approximate"),
    )
    sync_slop_ms: float = _parameter(
        15.0,
        "Largest difference of stamps of a pair, ms; policy approximate only. Below half a frame.",
        minimum=0.0,
        maximum=10_000.0,
    )
    sync_queue: int = _parameter(10, "Images of each stream that may wait for a partner.", minimum=1, maximum=1000)
    sync_timeout_ms: float = _parameter(
        100.0,
        "How long colour waits for its depth before it goes on alone, ms; depth_mode optional only.",
        minimum=0.0,
        maximum=60_000.0,
    )
    max_age_ms: float = _parameter(
        250.0,
        "Frames older than this when their turn comes are dropped and counted, ms; 0 is no limit.",
        minimum=0.0,
    )
    color_qos: str = _parameter(
        "auto",
        "Reliability asked of the colour publisher; auto takes what it offers, reliable while unknown.",
        choices=("auto", "reliable", "best_effort"),
    )
    depth_qos: str = _parameter(
        "auto",
        "Reliability asked of the depth publisher; auto takes what it offers, reliable while unknown.",
        choices=("auto", "reliable", "best_effort"),
    )
    input_timeout_s: float = _parameter(
        2.0, "Silence on an input after which /diagnostics warns, s.", minimum=0.1, maximum=3600.0
    )
    diagnostics_period_s: float = _parameter(1.0, "Time between /diagnostics messages, s.", minimum=0.05, maximum=60.0)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if not self.model:
            raise UsageError(
                "parameter 'model': expected the path of a model file (.safetensors), found nothing; "
                "set it with model:=FILE in the launch command, or --ros-args -p model:=FILE"
            )


def declare_parameters(node: Node) -> SegmentationParameters:
    """Declare every parameter on the node and return the checked values.

    Raises:
        UsageError: a value of the wrong type, outside its limits or not among its choices, or no model.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(SegmentationParameters):
        # Types are checked by `_checked`: rclpy would refuse the integer 250 for a float, in its own words.
        descriptor = ParameterDescriptor(
            description=field.metadata["description"],
            additional_constraints=_expectation(field),
            read_only=True,
            dynamic_typing=True,
        )
        values[field.name] = node.declare_parameter(field.name, field.default, descriptor).value
    return SegmentationParameters(**values)


def unknown_parameters(given: Mapping[str, Any], node: Node) -> list[str]:
    """Return a sentence for each parameter given to the node that it does not have."""
    known = [field.name for field in dataclasses.fields(SegmentationParameters)]
    return [
        f"unknown parameter '{name}' has no effect.{nearest_hint(name, known)}"
        for name in sorted(given)
        if not node.has_parameter(name) and not name.startswith("qos_overrides.")
    ]


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    wanted, limits = type(field.default), field.metadata
    if wanted is float and type(value) is int:
        value = float(value)
    if value is False and "off" in limits["choices"]:
        value = "off"  # `depth_mode:=off` reaches us as YAML's word for false
    fits = (
        type(value) is wanted
        and (not limits["choices"] or value in limits["choices"])
        and (wanted is str or limits["minimum"] <= value <= limits["maximum"])
    )
    if not fits:
        hint = nearest_hint(value, limits["choices"]) if isinstance(value, str) else ""
        raise UsageError(f"parameter '{field.name}': expected {_expectation(field)}, found {value!r}.{hint}")
    return value


def _expectation(field: dataclasses.Field[Any]) -> str:
    kind = {str: "text", int: "an integer", float: "a number"}[type(field.default)]
    limits = field.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    low, high = limits["minimum"], limits["maximum"]
    if math.isinf(low):
        return kind
    return f"{kind} from {low:g} to {high:g}" if math.isfinite(high) else f"{kind} of at least {low:g}"
