"""Units of depth, the greatest depth, and depth that cannot be true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deal_core.errors import UsageError
from deal_core.recording.depth_values import DepthCensus, DepthDoubt, DepthReading, DepthValues, parse_depth_unit
from deal_core.recording.image_encodings import ImageFormatError

RANDOM = np.random.default_rng(3)
SCENE_MM = RANDOM.integers(500, 3000, (48, 64)).astype(np.uint16)
SCENE_MM[:5] = 0


@pytest.mark.parametrize(
    ("text", "metres"),
    [("auto", None), ("m", 1), ("mm", 1e-3), ("cm", 0.01), ("0.1mm", 1e-4), ("0.25 mm", 2.5e-4), ("0.0002", 2e-4)],
)
def test_units(text: str, metres: float | None) -> None:
    assert parse_depth_unit(text) == (metres if metres is None else pytest.approx(metres))


@pytest.mark.parametrize("text", ["", "inch", "0mm", "-1mm", "mm0.1", "100m", "nan"])
def test_what_is_no_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unit of depth"):
        DepthValues(text)


@pytest.mark.parametrize(
    ("unit", "encoding", "stored"),
    [
        ("auto", "16UC1", SCENE_MM),
        ("auto", "32FC1", SCENE_MM.astype(np.float32) / 1000),
        ("mm", "32FC1", SCENE_MM.astype(np.float32)),
        ("0.1mm", "16UC1", SCENE_MM * 10),
        ("0.25mm", "mono16", SCENE_MM * 4),
    ],
)
def test_every_unit_gives_the_same_depth(unit: str, encoding: str, stored: np.ndarray) -> None:
    values = DepthValues(unit)
    np.testing.assert_array_equal(values.to_mm(stored, encoding), SCENE_MM)
    depth, valid = values.to_m(stored, encoding)
    np.testing.assert_allclose(depth, SCENE_MM / 1000, atol=1e-6)
    np.testing.assert_array_equal(valid, SCENE_MM > 0)
    assert values.sample(stored, encoding).doubts == []


@given(
    unit=st.sampled_from(["auto", "mm", "m", "0.1mm", "0.00025m", "0.0000002m"]),
    max_m=st.one_of(st.just(0.0), st.floats(0, 70), st.just(1000.0)),
    stored=npst.arrays(
        np.uint16, (5, 7), elements=st.one_of(st.sampled_from([0, 1, 65534, 65535]), st.integers(0, 65535))
    ),
    encoding=st.sampled_from(["16UC1", "mono16", "32FC1"]),
)
def test_counting_depth_is_converting_it(unit: str, max_m: float, stored: np.ndarray, encoding: str) -> None:
    values = DepthValues(unit, max_m)
    pixels = stored if encoding != "32FC1" else np.where(stored == 65535, np.nan, stored).astype(np.float32)
    for image in (pixels, pixels[:, 1:-1], pixels[::2]):
        reading = DepthReading(image, encoding, values)
        depth, valid = values.to_m(image, encoding)
        assert reading.valid_share() == pytest.approx(valid.mean(), abs=1e-12)
        np.testing.assert_array_equal(reading.metres(), depth)


def test_what_is_no_depth_is_refused_before_it_is_converted() -> None:
    with pytest.raises(ImageFormatError, match="rgb8"):
        DepthReading(np.zeros((2, 2, 3), np.uint8), "rgb8", DepthValues())


def test_usual_millimetres_are_not_copied() -> None:
    assert DepthValues().to_mm(SCENE_MM, "16UC1") is SCENE_MM


def test_the_greatest_depth_holds_in_both_forms() -> None:
    values = DepthValues(max_m=2.0)
    kept = np.where(SCENE_MM > 2000, 0, SCENE_MM)
    np.testing.assert_array_equal(values.to_mm(SCENE_MM, "16UC1"), kept)
    np.testing.assert_array_equal(values.to_m(SCENE_MM, "16UC1")[1], kept > 0)
    with pytest.raises(UsageError, match="greatest depth"):
        DepthValues(max_m=-1)


def metres_of(scene: np.ndarray) -> np.ndarray:
    return np.where(scene > 0, 1 + scene // 1000, 0).astype(np.uint16)


@pytest.mark.parametrize(
    ("stored", "encoding", "doubt"),
    [
        (metres_of(SCENE_MM), "16UC1", DepthDoubt.TOO_NEAR),
        (SCENE_MM.astype(np.float32), "32FC1", DepthDoubt.TOO_FAR),
        (SCENE_MM * 10, "16UC1", DepthDoubt.NOTHING_NEAR),
        (SCENE_MM * 20, "16UC1", DepthDoubt.FAR),
        (np.full((48, 64), 700, np.uint16), "16UC1", DepthDoubt.CONSTANT),
        (np.where(SCENE_MM > 2900, 65535, SCENE_MM).astype(np.uint16), "16UC1", DepthDoubt.MARKED),
    ],
)
def test_depth_that_cannot_be_true_is_named(stored: np.ndarray, encoding: str, doubt: DepthDoubt) -> None:
    assert DepthValues().sample(stored, encoding).doubts == [doubt]


@pytest.mark.parametrize("stored", [np.zeros((48, 64), np.uint16), np.full((3, 4), 1, np.uint16)])
def test_too_little_depth_is_not_judged(stored: np.ndarray) -> None:
    assert DepthValues().sample(stored, "16UC1").doubts == []


def test_a_census_tells_a_fault_of_most_images_from_a_rare_one() -> None:
    sound, metres = DepthValues().sample(SCENE_MM, "16UC1"), DepthValues().sample(metres_of(SCENE_MM), "16UC1")
    for wrong, notes, errors in ((0, 0, 0), (1, 0, 0), (4, 1, 0), (15, 0, 1)):
        census = DepthCensus()
        for index in range(20):
            census.see(metres if index < wrong else sound)
        found = census.findings()
        assert (len(found[0]), len(found[1])) == (notes, errors)
        assert all("--depth-unit m" in text and f"{wrong} of 20" in text for text in (*found[0], *found[1]))


def test_the_advice_names_the_options_of_commands_and_nodes() -> None:
    assert "--depth-unit mm" in DepthDoubt.TOO_FAR.value and "depth_unit:=mm" in DepthDoubt.TOO_FAR.as_parameter
    assert "--max-depth 20" in DepthDoubt.MARKED.value and "max_depth_m:=20.0" in DepthDoubt.MARKED.as_parameter
