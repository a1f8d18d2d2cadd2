"""Estimated depth: what is written is read to within half a count, what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deal_core.dataset.depth_maps import DepthMaps, DepthMapsWriter
from deal_core.errors import DatasetError, UsageError

DEPTH = np.array([[0.5, np.nan, 2.0], [np.inf, 65.535, -1.0]], np.float32)


def test_metric_depth_is_kept_to_the_millimetre(tmp_path: Path) -> None:
    DepthMapsWriter(tmp_path / "depth", "metric", "m").write("a/1", DEPTH)
    maps = DepthMaps.open(tmp_path / "depth")
    assert (maps.kind, maps.model) == ("metric", "m")
    loaded = maps.load("a/1", (2, 3))
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, [[0.5, 0, 2], [0, 65.535, 0]], rtol=1e-6)


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1e6, width=32)))
def test_inverse_depth_is_kept_up_to_its_scale(tmp_path_factory: pytest.TempPathFactory, depth: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("maps") / "depth"
    DepthMapsWriter(folder, "inverse", "m").write("x", depth)
    loaded = DepthMaps.open(folder).load("x", (3, 4))
    assert (loaded > 0).all() and loaded.max() <= 1.000001
    largest = float(depth.max()) or 1.0
    for found, given_ in zip(loaded.reshape(-1), depth.reshape(-1), strict=True):
        assert abs(float(found) - float(given_) / largest) <= 1.01 / 65535


def test_inverse_depth_without_a_finite_value_is_invalid_everywhere(tmp_path: Path) -> None:
    DepthMapsWriter(tmp_path / "depth", "inverse", "m").write("x", np.full((2, 2), np.nan, np.float32))
    assert not DepthMaps.open(tmp_path / "depth").load("x", (2, 2)).any()


def test_files_are_16_bit_png_beside_depth_json(tmp_path: Path) -> None:
    DepthMapsWriter(tmp_path / "depth", "inverse", "net").write("rec/1", np.array([[1.0, 2.0]]))
    stored = cv2.imread(str(tmp_path / "depth" / "rec" / "1.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and stored.tolist() == [[32768, 65535]]
    content = json.loads((tmp_path / "depth" / "depth.json").read_text())
    assert content == {"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 1 / 65535, "model": "net"}


def test_a_folder_is_continued_by_the_same_model_only(tmp_path: Path) -> None:
    first = DepthMapsWriter(tmp_path / "depth", "inverse", "small")
    first.write("a/1", np.ones((2, 2)))
    again = DepthMapsWriter(tmp_path / "depth", "inverse", "small")
    assert again.maps.has("a/1") and not again.maps.has("a/2")
    for kind, model in (("metric", "small"), ("inverse", "large")):
        with pytest.raises(DatasetError, match=r"contains inverse depth of small, not .* choose another"):
            DepthMapsWriter(tmp_path / "depth", kind, model)  # type: ignore[arg-type]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DatasetError, match="exists and contains no depth maps"):
        DepthMapsWriter(tmp_path / "other", "inverse", "small")


GOOD = {"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 0.5, "model": "m"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "contains no depth maps: expected depth.json"),
        ("{", "expected a JSON object, found"),
        ("\x80", "expected a JSON object, found"),
        ("[]", r"expected a JSON object, found \[\]"),
        ({"format": "other"}, "'format': expected 'deal-depth', found 'other'"),
        ({"version": 2}, "'version': expected 1, found 2"),
        ({"kind": "disparity"}, "'kind': expected 'metric' or 'inverse', found 'disparity'"),
        ({"kind": ["inverse"]}, "'kind': expected 'metric' or 'inverse'"),
        ({"scale": 0}, "'scale': expected greater than 0, found 0"),
        ({"scale": "1"}, "'scale': expected a valid number, found '1'"),
        ({"scale": float("nan")}, "'scale': expected a finite number, found nan"),
        ({"model": None}, "'model': expected a valid string, found None"),
    ],
)
def test_depth_json_that_is_wrong(tmp_path: Path, content: Any, said: str) -> None:
    if isinstance(content, str):
        (tmp_path / "depth.json").write_bytes(content.encode("latin-1"))
    elif content is not None:
        (tmp_path / "depth.json").write_text(json.dumps({**GOOD, **content}))
    with pytest.raises(DatasetError, match=said) as caught:
        DepthMaps.open(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.fixture
def maps(tmp_path: Path) -> DepthMaps:
    DepthMapsWriter(tmp_path / "depth", "inverse", "m").write("a", np.ones((4, 6)))
    return DepthMaps.open(tmp_path / "depth")


def test_maps_that_are_wrong(maps: DepthMaps) -> None:
    with pytest.raises(DatasetError, match=r"depth map .*b\.png cannot be read .No such file.*deal depth"):
        maps.load("b", (4, 6))
    with pytest.raises(DatasetError, match=r"size \(6, 4\), found uint16 \(4, 6\)"):
        maps.load("a", (6, 4))
    file = maps.path("a")
    file.write_bytes(file.read_bytes()[:-15])
    with pytest.raises(DatasetError, match="is damaged"):
        maps.load("a", (4, 6))
    cv2.imwrite(str(file), np.ones((4, 6), np.uint8))
    with pytest.raises(DatasetError, match="expected uint16"):
        maps.load("a", (4, 6))
    with pytest.raises(DatasetError, match="expected a file inside"):
        maps.load("../a", (4, 6))


def test_what_is_no_map_is_refused(maps: DepthMaps) -> None:
    with pytest.raises(UsageError, match=r"shape \(H, W\), found \(2, 2, 1\)"):
        DepthMapsWriter(maps.folder, "inverse", "m").write("b", np.ones((2, 2, 1)))
