"""CVAT for images 1.1: masks, polygons, ellipses and boxes in their order, and what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.cvat_file import open_cvat

NAME = "hall/1000000000.png"
SIZE = (36, 48)
MASK = '<mask label="mug" rle="0, 6" left="2" top="3" width="3" height="2" z_order="1"/>'


def write(folder: Path, *shapes: str, image: str = f'name="{NAME}" width="48" height="36"') -> Path:
    file = folder / "annotations.xml"
    file.write_text(
        f'<?xml version="1.0"?>\n<annotations><version>1.1</version><meta/><image id="0" {image}>{"".join(shapes)}'
        "</image></annotations>"
    )
    return file


def test_shapes_cover_their_pixels_in_the_order_of_z(dataset: Dataset, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        MASK,
        '<polygon label="jar" points="6.00,4.00;26,4;26,14;6,14"><attribute name="a">b</attribute></polygon>',
        '<ellipse label="box" cx="20" cy="20" rx="5" ry="5"/>',
        '<tag label="mug"/>',
        '<polyline label="mug" points="1,1;2,2"/>',
    )
    source = open_cvat(file)
    layers = source.layers(NAME, dataset.frames[0], SIZE)
    assert [layer.label for layer in layers] == ["jar", "box", "mug"]
    assert layers[0].pixels == 200 and layers[0].place == (slice(4, 14), slice(6, 26))
    assert abs(layers[1].pixels - np.pi * 25) < 6
    assert layers[2].place == (slice(3, 5), slice(2, 5)) and layers[2].part.all()
    assert source.notes == ("1 of the kind polyline have no area",) and source.labels(NAME) == {"jar", "box", "mug"}


def test_boxes_are_refused_or_drawn(dataset: Dataset, tmp_path: Path) -> None:
    file = write(tmp_path, '<box label="mug" xtl="6" ytl="4" xbr="26" ybr="14" rotation="180.0"/>')
    with pytest.raises(DatasetError, match=r"'mug' in image 'hall/1000000000.png' is a box"):
        open_cvat(file)
    (layer,) = open_cvat(file, "draw").layers(NAME, dataset.frames[0], SIZE)
    assert layer.pixels == 200


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (MASK.replace('"0, 6"', '"0, x"'), "expected a number as rle .* found ' x'"),
        (MASK.replace('left="2"', ""), "expected a number as left .* found None"),
        (MASK.replace('label="mug"', ""), "a mask in image 'hall/1000000000.png' has no label"),
        ('<polygon label="mug" points="1,1;2,2"/>', "a polygon of 2 corners"),
        ('<polygon label="mug" points="1,1;nan,2;3,3"/>', "expected a number as points"),
        ('<polygon label="mug" points="1,1;2,2;1e99,3"/>', "expected a number as points"),
    ],
)
def test_a_wrong_shape_is_refused(shape: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=reason):
        open_cvat(write(tmp_path, shape))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotations><track id='0' label='mug'/></annotations>", "found tracks, as in 'CVAT for video'"),
        ("<html/>", "found <html>"),
        ("{}", "cannot be read"),
        ("<annotations><image id='0'/></annotations>", "expected a name of its own"),
        ("<annotations><image name='a'/><image name='a'/></annotations>", "expected a name of its own"),
    ],
)
def test_another_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    file.write_text(text)
    with pytest.raises(DatasetError, match=rf"annotations.xml.*{reason}"):
        open_cvat(file)


def test_an_image_without_its_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a number as height"):
        open_cvat(write(tmp_path, MASK, image=f'name="{NAME}"'))
    with pytest.raises(DatasetError, match="expected the width and height"):
        open_cvat(write(tmp_path, MASK, image=f'name="{NAME}" width="0" height="3"'))
