"""Scores that give way to what is known of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.masks.known import KnownMask, with_known
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings, ScoredFrame
from deal_core.models.model_file import LoadedModel
from deal_core.structures import Sample

GIVEN = CamSettings(device="cpu", batch_size=5)
UNIT = st.floats(0, 1, width=32)


def scored(scores: np.ndarray) -> ScoredFrame:
    size = scores.shape[1:]
    image, depth = np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32)
    return ScoredFrame(Sample(image, depth, depth > 0, np.ones(len(scores), np.float32), "a/0"), scores)


@given(
    arrays.arrays(np.float32, (3, 4, 5), elements=UNIT),
    arrays.arrays(np.uint8, (4, 5), elements=st.integers(0, 3)),
    arrays.arrays(np.bool_, 3),
)
def test_each_pixel_takes_what_is_known(scores: np.ndarray, mask: np.ndarray, reached: np.ndarray) -> None:
    found = with_known(scored(scores), KnownMask(mask, reached)).scores
    for k in range(3):
        for y in range(4):
            for x in range(5):
                here = int(mask[y, x]) - 1
                is_known = here >= 0 and reached[here]
                if reached[k]:
                    expected = float(is_known and here == k)
                else:
                    expected = 0.0 if is_known else scores[k, y, x]
                assert found[k, y, x] == expected


def test_a_frame_of_which_nothing_is_known_stays_as_it_is() -> None:
    frame = scored(np.full((2, 3, 4), 0.5, np.float32))
    assert with_known(frame, None) is frame
    assert with_known(frame, KnownMask(np.zeros((3, 4), np.uint8), np.zeros(2, bool))) is frame


@dataclass
class Known:
    """Known masks by key."""

    masks: dict[str, KnownMask] = field(default_factory=dict)
    digest: str = "some"

    def of(self, key: str) -> KnownMask | None:
        return self.masks.get(key)


def test_a_folder_says_what_was_known_and_mixes_nothing(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    key = dataset.frames[3].key
    size = dataset.load(3).image.shape[:2]
    label = int(np.flatnonzero(dataset.tags[3] == 1)[0])
    drawn = np.zeros(size, np.uint8)
    drawn[:7, :9] = label + 1
    known = Known({key: KnownMask(drawn, np.arange(3) == label)})
    assert all(write_cams(model, dataset, tmp_path / "known", GIVEN, known=known))
    assert all(write_cams(model, dataset, tmp_path / "plain", GIVEN))
    names = sorted(str(f.relative_to(tmp_path / "plain")) for f in (tmp_path / "plain").rglob("*.*"))
    other = [n for n in names if (tmp_path / "plain" / n).read_bytes() != (tmp_path / "known" / n).read_bytes()]
    assert set(other) <= {"cams.json", f"{key}.png", f"{key}.npz"} and f"{key}.npz" in other
    assert json.loads((tmp_path / "known" / "cams.json").read_text())["known"] == "some"
    assert "known" not in json.loads((tmp_path / "plain" / "cams.json").read_text())
    for place, given_ in (("known", None), ("plain", known), ("known", Known(digest="other"))):
        with pytest.raises(DatasetError, match=r"made with other taps, boxes or poses: choose another folder"):
            next(write_cams(model, dataset, tmp_path / place, GIVEN, known=given_))
