"""JSON and YAML from files of others: read within limits, and all that is wrong with them is one kind of error.

`json` and `yaml` raise errors of a dozen kinds, some without end: on deep nesting, on numbers with thousands of digits,
on dates that do not exist. They also read nan, numbers that are infinite, and aliases that stand for gigabytes.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deal_core.errors import short
from deal_core.files import decoded, read_text
from deal_core.limits import limit, over, read_bytes, refuse_over

_ODD = re.compile(r"\d{19}|[eE]\+?\d{3}|\\u[dD][89a-fA-F]|NaN|Infinity")
_PIECE = 2**20
_LONGEST = 200


class FormatError(ValueError):
    """A text that is no JSON or YAML, or exceeds a limit; the message is one short line."""


def read_json(path: Path, name: str = "text_bytes", *, finite: bool = True) -> Any:
    """Return the content of a JSON file; see `parse_json`.

    Args:
        path: the file.
        name: limit of its length.
        finite: whether nan and infinite numbers are errors.

    Raises:
        OSError: it cannot be read, is no regular file, or exceeds the limit.
        ValueError: it is no UTF-8, or no JSON (`FormatError`).
    """
    return parse_json(decoded(read_bytes(path, name)), finite=finite)


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text.
        finite: whether nan and infinite numbers are errors.

    Raises:
        FormatError: the text is no JSON, is nested too deep, or has a number of more than 64 bits.

    >>> parse_json('{"mug": 1}')
    {'mug': 1}
    """
    depth = _depth(text)
    if depth > limit("nesting"):
        raise FormatError(over("nesting", depth, "lists inside one another"))
    # The checks of each number take time, and nearly no file has numbers that need them.
    options: dict[str, Any] = {}
    if _ODD.search(text):
        options = {"parse_int": _whole, "parse_float": _finite if finite else float}
        if finite:
            options["parse_constant"] = _refuse_constant
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except ValueError as error:
        raise FormatError(f"no JSON: {str(error)[:_LONGEST]}") from None
    if options and not _is_text(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError("no JSON: a text with half a character (\\ud800 to \\udfff)") from None
    return value


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; see `parse_yaml`.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is in another encoding, or no YAML (`FormatError`).
    """
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text: null, texts, numbers, dates, lists and mappings.

    Raises:
        FormatError: the text is no YAML, names a key twice, has a number that is not finite or of more than 64 bits, or
            is too long, too deep or has too many values, each alias counted as what it stands for.

    >>> parse_yaml("{mug: 1, drill: [a, b]}")
    {'mug': 1, 'drill': ['a', 'b']}
    """
    refuse_over("yaml_bytes", len(text), "characters", FormatError)
    try:
        return yaml.load(text, _Loader)
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = error.problem or error.context or "unreadable"
        raise FormatError(f"not valid YAML: {problem[:_LONGEST]}{place}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError(f"not valid YAML: {str(error)[:_LONGEST]}") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, whose scalars are still texts; raise `FormatError` as `parse_yaml` does."""
    refuse_over("yaml_bytes", len(text), "characters", FormatError)
    try:
        return yaml.compose(text, _Bounded)
    except RecursionError:
        raise FormatError("its lists are nested too deep") from None
    except FormatError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise FormatError(f"not valid YAML: {' '.join(str(error)[:_LONGEST].split())}") from None


def _is_text(text: str) -> bool:
    return "\\u" not in text


def _depth(text: str) -> int:
    """Return at least how deep the lists and objects of a JSON text are nested; brackets in texts count, too."""
    deepest = now = 0
    for at in range(0, len(text), _PIECE):
        letters = np.frombuffer(text[at : at + _PIECE].encode("ascii", "replace"), np.uint8)
        steps = np.isin(letters, (0x5B, 0x7B)).astype(np.int32) - np.isin(letters, (0x5D, 0x7D)).astype(np.int32)
        levels = np.cumsum(steps) + now
        if levels.size:
            deepest, now = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
        raise FormatError(f"a whole number of {len(text.lstrip('-'))} digits, expected at most 64 bits")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise FormatError(f"expected a finite number, found {text[:40]}")
    return value


def _refuse_constant(name: str) -> float:
    raise FormatError(f"expected a finite number, found {name}")


class _Bounded(yaml.SafeLoader):
    """Count the values and their nesting while they are read, and refuse what is too much."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nesting = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # values and characters of a node, with aliases written out
        self._found = [(0, 0)]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nesting += 1
        refuse_over("nesting", self._nesting, "lists inside one another", FormatError)
        self._found.append((1, 0))
        node = super().compose_node(parent, index)
        size = self._found.pop()
        if node is not None:
            if not isinstance(node, yaml.ScalarNode) and node.end_mark is None:
                raise FormatError("not valid YAML: an alias inside of what it stands for")
            length = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
            size = self._sizes.setdefault(id(node), (size[0], size[1] + length))
        values, letters = (a + b for a, b in zip(self._found[-1], size, strict=True))
        refuse_over("yaml_values", values, "values, with each alias written out,", FormatError)
        refuse_over("yaml_bytes", letters, "characters, with each alias written out,", FormatError)
        self._found[-1] = (values, letters)
        self._nesting -= 1
        return node


class _Loader(_Bounded):
    """Refuse a key that is twice in a mapping, of which YAML takes the last, and numbers that nothing can use."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.composer.ComposerError(None, None, f"{short(key.value)} appears twice", key.start_mark)
                keys.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 80:
            raise FormatError(f"a whole number of {len(node.value)} digits, expected at most 64 bits")
        value = int(super().construct_yaml_int(node))
        if not -(2**63) <= value < 2**64:
            raise FormatError(f"a whole number of {len(node.value)} digits, expected at most 64 bits")
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        if not math.isfinite(value := float(super().construct_yaml_float(node))):
            raise FormatError(f"expected a finite number, found {node.value[:40]}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
