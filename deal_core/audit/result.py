"""The result of an audit, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deal_core.errors import EvaluationError, explain_invalid
from deal_core.files import os_errors_as, replacing
from deal_core.text_formats import read_json

VERSION = 1


class _Checked:
    """A file with a key that is not a field of these classes is refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class WrongTag(_Checked):
    """A tag that looks wrong.

    Args:
        name: Name of the class.
        tagged: The given tag.
        recording: Name of the recording.
        segment: Number of the segment.
        frames: Keys of the frames in a row that have the tag.
        probability: Estimated probability that the tag is wrong, in [0, 1].
    """

    name: str
    tagged: Literal["present", "absent"]
    recording: str
    segment: int
    frames: tuple[str, ...]
    probability: float


@dataclass(frozen=True)
class WrongTags(_Checked):
    """Tags that look wrong. A tag is that of one class in frames in a row with the same tags.

    Args:
        tags: The list, most suspicious first; empty if no list reaches the precision that was asked for.
        checked: Number of known tags.
        expected: Estimated number of wrong tags among them; None if there are too few scenes to check tags.
        precision: Estimated share of the list that is wrong; None for an empty list.
        recall: Estimated share of the wrong tags that are in the list; None without an estimate.
    """

    tags: tuple[WrongTag, ...]
    checked: int
    expected: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class PlaceShortcut(_Checked):
    """A class whose tags the place predicts, with all things cut out.

    Args:
        name: Name of the class.
        ranking: How well the background of unseen visits tells those with the class from those without, 1/2 by chance.
        frames: Keys of frames with the class, whose background predicts it most.
    """

    name: str
    ranking: float
    frames: tuple[str, ...]

    def __str__(self) -> str:
        where = f", as in {self.frames[0]}" if self.frames else ""
        return (
            f"{self.name} is tagged where the place is a certain one{where}: with all things cut out, the background "
            f"alone ranks unseen scenes with it above those without it in {self.ranking:.0%} of the cases (50 % by "
            f"chance). Record the same place without {self.name}, and {self.name} in other places"
        )


@dataclass(frozen=True)
class NextFrame(_Checked):
    """A frame that would help most if a person tagged it, or looked at its tags.

    Args:
        key: Key of the frame.
        recording: Name of its recording.
        segment: Number of its segment.
        names: Names of the classes about which the heads are unsure, most unsure first.
        is_tagged: Whether the tags of these classes are known.
    """

    key: str
    recording: str
    segment: int
    names: tuple[str, ...]
    is_tagged: bool


@dataclass(frozen=True)
class ClassFacts(_Checked):
    """What the tags and the background say about one class.

    Args:
        name: Name of the class.
        with_it: Number of visits with a frame that is tagged with the class.
        without: Number of visits with a frame in which the class is tagged absent.
        ranking: How well heads that did not see a visit tell its frames with the class from those without; None if they
            cannot be compared.
        place_ranking: The same by the background alone, from visit to visit; None if there are too few visits.
    """

    name: str
    with_it: int
    without: int
    ranking: float | None
    place_ranking: float | None


@dataclass(frozen=True)
class Audit(_Checked):
    """The result of `audit_dataset`.

    Args:
        dataset: Path of the dataset.
        frames: Number of frames.
        visits: Number of visits to places, see `deal_core.audit.visits.visits_of`.
        classes: Facts of each class.
        wrong_tags: Tags that look wrong.
        shortcuts: Classes that the place predicts.
        notes: What the tags alone cannot teach, as sentences.
        record_next: What to record next, as sentences.
        next_frames: Frames to tag or to look at next, the most helpful first.
    """

    dataset: str
    frames: int
    visits: int
    classes: tuple[ClassFacts, ...]
    wrong_tags: WrongTags
    shortcuts: tuple[PlaceShortcut, ...]
    notes: tuple[str, ...]
    record_next: tuple[str, ...]
    next_frames: tuple[NextFrame, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, with the number of its format."""
        return {"version": VERSION, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write the JSON form; raise `EvaluationError` if the file cannot be written."""
        with os_errors_as(EvaluationError, f"{path}: the audit cannot be written"), replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Audit:
        """Read a file that `write` made.

        Raises:
            EvaluationError: the file cannot be read, or has other content.
        """
        again = f"write it again with `deal audit DATASET --out {path}`"
        try:
            value = read_json(path)
            version = value.pop("version", None) if isinstance(value, dict) else None
            if version != VERSION:
                raise EvaluationError(f"{path}: expected an audit of version {VERSION}, found {version!r}: {again}")
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            raise EvaluationError(f"{path}: {explain_invalid(error)}: {again}") from None
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read ({error}): {again}") from None
