"""Settings as YAML: read with overrides, validated, and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deal_core.errors import ConfigError, nearest_hint, short, short_key
from deal_core.text_formats import FormatError, parse_yaml, read_yaml


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _group_without_values(cls, value: Any) -> Any:
        """Read a group whose keys are all commented out as an empty group."""
        return {} if value is None else value


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Read settings from a YAML file and dotted overrides such as `deal.weight=0.1`; an override wins.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or out of range. The message names
            the key, what was expected and found, and for an unknown one the nearest that exists.
    """
    values = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = str(path) if path else "settings"
        lines = [_explain(kind, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def dump_settings(settings: Settings) -> str:
    """Return the settings as YAML that `load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


# YAML reads yes and on as true, and true would pass for 1.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Number = Annotated[float, BeforeValidator(_refuse_bool)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
PositiveFraction = Annotated[Number, Field(gt=0, le=1)]
NotNegative = Annotated[Number, Field(ge=0)]
PositiveWhole = Annotated[Whole, Field(ge=1)]
Size = tuple[Annotated[Whole, Field(ge=16)], Annotated[Whole, Field(ge=16)]]
EdgeSize = tuple[Annotated[Whole, Field(ge=3)], Annotated[Whole, Field(ge=3)]]


def refuse_falling(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return (smallest, largest); raise ValueError if the first is larger."""
    if bounds[0] > bounds[1]:
        raise ValueError("expected the smaller value first")
    return bounds


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except FormatError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read this settings file ({error})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"expected an override like deal.weight=0.1, found '{override}'")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        child = values[parent]
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value, not a group of settings")
        values = child
    try:
        values[last] = parse_yaml(text)
    except FormatError as error:
        raise ConfigError(f"override '{override}': {error}") from None


def _explain(kind: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = short_key(location)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        return f"unknown key '{key}': expected one of {', '.join(known)}.{nearest_hint(location[-1], known)}"
    if problem["type"] == "missing":
        return f"'{key}' is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}, found {short(problem['input'])}"


def _keys_at(kind: type[BaseModel], location: Iterable[str]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation
        candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        kind = next(a for a in candidates if issubclass(a, BaseModel))
    return list(kind.model_fields)
