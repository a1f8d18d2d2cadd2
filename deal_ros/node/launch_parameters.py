"""Parameters of a node that a launch file starts: launch arguments in their types, and a parameter file without them.

rcl does not let the last of several parameter files win: it keeps values of different types beside each other, and it
prefers a section with the node's name to `/**`, or the section that it met first, depending on the distribution. So the
parameters that the arguments set are removed from the parameter file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import yaml

from deal_core.errors import UsageError, nearest_hint
from deal_core.files import read_text
from deal_core.text_formats import compose_yaml

Value: TypeAlias = bool | int | float | str | list[str]
"""The value of a parameter."""

_SECTION = "ros__parameters"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def typed_values(arguments: Mapping[str, str], schema: Path) -> dict[str, Value]:
    """Return launch arguments as values of the parameters of the same names; an empty argument is left out.

    Args:
        arguments: text by name of the argument and the parameter.
        schema: JSON schema of the node's parameter file, which has their types and limits.

    Raises:
        UsageError: a text does not fit the parameter's type or is outside its limits.
    """
    section = json.loads(schema.read_text(encoding="utf-8"))["additionalProperties"]["properties"][_SECTION]
    return {name: _typed(name, text, section["properties"][name]) for name, text in arguments.items() if text}


def boolean(name: str, text: str) -> bool:
    """Return a launch argument that takes true or false, as launch and YAML spell them: also 1, 0, yes, no, on, off.

    Raises:
        UsageError: it is something else.
    """
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise _wrong(name, "true or false", text)
    return word in _TRUE


@dataclass(frozen=True)
class ParameterFile:
    """A parameter file of ROS as a tree of YAML nodes, which keeps what is quoted and what is not.

    Args:
        path: path of the file.
        tree: the content; None if the file is empty.
    """

    path: Path
    tree: yaml.Node | None

    @classmethod
    def read(cls, path: Path) -> ParameterFile:
        """Read a file.

        Raises:
            UsageError: the file cannot be read or is not YAML.
        """
        try:
            return cls(path, compose_yaml(read_text(path)))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"launch argument 'params_file': expected a parameter file, found {path}: {error}"
            ) from None

    def values(self, name: str) -> list[str]:
        """Return the texts of a parameter, or of the entries of a list, in all sections."""
        entries = [entry for section in _sections(self.tree) for entry in section.value]
        found = [value for key, value in entries if key.value == name]
        scalars = [
            each for value in found for each in (value.value if isinstance(value, yaml.SequenceNode) else [value])
        ]
        return [each.value for each in scalars if isinstance(each, yaml.ScalarNode)]

    def without(self, names: Iterable[str]) -> str:
        """Return the content without these parameters in any section. Changes the tree."""
        for section in _sections(self.tree):
            section.value = [(key, value) for key, value in section.value if key.value not in names]
        return "" if self.tree is None else yaml.serialize(self.tree, allow_unicode=True, width=2**20)


def write_parameters(folder: Path, file: ParameterFile, values: Mapping[str, Value]) -> list[Path]:
    """Write what a node takes as `--params-file`: the file without the parameters that `values` sets, and the values.

    Args:
        folder: folder for what is written.
        file: parameter file.
        values: parameters that override those of the file.

    Returns:
        The paths, in their order. Without values, this is the file itself.
    """
    if not values:
        return [file.path]
    rest, given = folder / "params_file.yaml", folder / "launch_arguments.yaml"
    rest.write_text(file.without(values), encoding="utf-8")
    given.write_text(as_yaml({"/**": {_SECTION: dict(values)}}), encoding="utf-8")
    return [rest, given]


def as_yaml(value: Value | Mapping[str, Any]) -> str:
    """Return YAML that rcl reads as this value, for a file or behind `-p name:=`."""
    return yaml.dump(value, Dumper=_QuotingDumper, width=2**20).removesuffix("...\n").strip()


class _QuotingDumper(yaml.SafeDumper):
    """Write each text in quotes: rcl takes 1e3, y or nan without them for something else, and PyYAML does not."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')

    yaml_representers: ClassVar[dict[Any, Any]] = {**yaml.SafeDumper.yaml_representers, str: represent_str}


def _is_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode)


def _sections(tree: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield the mappings of parameters, whose node names may be one key or nested keys."""
    if not isinstance(tree, yaml.MappingNode):
        return
    for key, value in tree.value:
        if key.value == _SECTION and isinstance(value, yaml.MappingNode):
            yield value
        else:
            yield from _sections(value)


def _typed(name: str, text: str, limits: Mapping[str, Any]) -> Value:
    kind = limits["type"]
    if kind == "boolean":
        return boolean(name, text)
    if kind in ("integer", "number"):
        return _number(name, text, limits)
    if "array" in kind:
        return _list(text)
    if "enum" in limits and text not in limits["enum"]:
        choices = limits["enum"]
        raise _wrong(name, f"one of {', '.join(choices)}", text, nearest_hint(text, choices))
    return text


def _number(name: str, text: str, limits: Mapping[str, Any]) -> int | float:
    low, high = limits.get("minimum"), limits.get("maximum")
    expected = "an integer" if limits["type"] == "integer" else "a number"
    if low is not None:
        expected += f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"
    try:
        number = int(text) if limits["type"] == "integer" else float(text)
    except ValueError:
        raise _wrong(name, expected, text) from None
    # `not`, so that nan is refused too.
    if (low is not None and not number >= low) or (high is not None and not number <= high):
        raise _wrong(name, expected, text)
    return number


def _list(text: str) -> Value:
    """Return `[a, b]` as a list of text, and text with commas as it is; the node splits it."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # it reads each entry as text  # nosec B506
    except yaml.YAMLError:
        return text
    is_list_of_text = isinstance(found, list) and all(isinstance(entry, str) for entry in found)
    return (found or "") if is_list_of_text else text  # rcl cannot infer the type of an empty list


def _wrong(name: str, expected: str, found: str, hint: str = "") -> UsageError:
    return UsageError(f"launch argument '{name}': expected {expected}, found '{found}'.{hint}")
