"""Classes as they stand in a recording's session, in dataset.yaml, and nowhere else in another form."""

from __future__ import annotations

from typing import Any

from deal_core.errors import DatasetError
from deal_core.structures import ClassList


def classes_to_json(classes: ClassList) -> list[dict[str, Any]]:
    """Return `[{"name": "mug", "color": [255, 0, 0]}, …]`."""
    return [{"name": name, "color": list(color)} for name, color in zip(classes.names, classes.colors, strict=True)]


def classes_from_json(value: Any) -> ClassList:
    """Read the form of `classes_to_json`; all colours may be left out.

    Raises:
        DatasetError: another form, or classes that `ClassList` refuses.
    """
    try:
        names = tuple(entry["name"] for entry in value)
        colors = tuple(tuple(entry["color"]) for entry in value if "color" in entry)
        return ClassList(names, colors)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f'expected classes like [{{"name": "mug", "color": [255, 0, 0]}}], found {value!r} ({error})'
        ) from None


def require_same_classes(found: ClassList, where: str, expected: ClassList, expected_where: str) -> None:
    """Refuse classes of other names or order, since masks and tags count on both; colours may differ.

    Raises:
        DatasetError: the names or their order differ.
    """
    if found.names != expected.names:
        raise DatasetError(
            f"the classes of {where} are [{', '.join(found.names)}], those of {expected_where} are "
            f"[{', '.join(expected.names)}]: names and order must be the same"
        )
