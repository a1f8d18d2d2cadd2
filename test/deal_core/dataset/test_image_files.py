"""Pictures as people bring them: every format by its bytes, turned, whole or refused; masks by their ids."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from deal_core.dataset.image_files import GroundTruth, ImageFinder, read_color, read_ids, read_image, turned
from deal_core.errors import DatasetError
from deal_core.structures import ClassList

RAMP = np.stack(np.meshgrid(np.arange(0, 240, 12), np.arange(0, 240, 16)), -1).astype(np.uint8)
PICTURE = np.concatenate([RAMP, RAMP[..., :1] // 2], axis=-1)  # (15, 20, 3), smooth
LOSSLESS = ("PNG", "BMP", "TIFF", "WEBP")


def encoded(form: str, image: Image.Image | None = None, orientation: int = 0, **options: Any) -> bytes:
    data = io.BytesIO()
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if form == "WEBP":
        options["lossless"] = True
    (image or Image.fromarray(PICTURE)).save(data, form, **options)
    return data.getvalue()


def color(tmp_path: Path, data: bytes, name: str = "x.png") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return read_color(tmp_path / name, "image", "bring another")


@pytest.mark.parametrize("form", LOSSLESS)
def test_the_bytes_say_the_format_not_the_name(tmp_path: Path, form: str) -> None:
    np.testing.assert_array_equal(color(tmp_path, encoded(form), "photo.jpg"), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_as_a_viewer_turns_it(tmp_path: Path, form: str, orientation: int) -> None:
    data = encoded(form, orientation=orientation, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded("PNG", orientation=orientation)))))
    found = color(tmp_path, data)
    assert found.shape == shown.shape
    np.testing.assert_allclose(found.astype(int), shown, atol=6 if form == "JPEG" else 0)
    np.testing.assert_array_equal(turned(PICTURE[..., 0], orientation), shown[..., 0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str, form: str) -> None:
    image = Image.fromarray(PICTURE)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(40)  # what is nearly transparent keeps its colour
    np.testing.assert_array_equal(color(tmp_path, encoded(form, image)), np.asarray(image.convert("RGB")))


def test_16_bit_and_cmyk_become_8_bit_rgb(tmp_path: Path) -> None:
    wide = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(color(tmp_path, encoded(form, wide)), PICTURE[..., :1].repeat(3, axis=2))
    printed = color(tmp_path, encoded("JPEG", Image.fromarray(PICTURE).convert("CMYK"), quality=95, subsampling=0))
    np.testing.assert_allclose(printed.astype(int), PICTURE, atol=10)
    with pytest.raises(DatasetError, match="contains floating-point numbers"):
        color(tmp_path, encoded("TIFF", Image.fromarray(PICTURE[..., 0].astype(np.float32))))


@settings(max_examples=60)
@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), extra=st.binary(max_size=300))
def test_bytes_behind_the_end_change_nothing(tmp_path_factory: pytest.TempPathFactory, form: str, extra: bytes) -> None:
    folder = tmp_path_factory.mktemp("padded")
    np.testing.assert_array_equal(color(folder, encoded(form) + extra), color(folder, encoded(form)))


@settings(max_examples=120)
@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), share=st.floats(0, 0.999))
def test_a_picture_that_ends_too_early_is_refused(
    tmp_path_factory: pytest.TempPathFactory, form: str, share: float
) -> None:
    exif = Image.Exif()
    exif[0x0110] = "camera \xff\xd9"  # an end marker that is none
    data = encoded(form) if form == "BMP" else encoded(form, exif=exif)
    with pytest.raises(DatasetError, match="is damaged"):
        color(tmp_path_factory.mktemp("cut"), data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded("GIF"), "found GIF"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "found HEIC"),
        (b"\0\x05\x16\x07" + bytes(100), "found AppleDouble"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "found a web page"),
        (bytes(200), r"is damaged \(200 bytes of 0\)"),
        (b"", r"is damaged \(0 bytes\)"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        color(tmp_path, data)


def test_depth_keeps_its_16_bit_in_any_format(tmp_path: Path) -> None:
    depth = (np.arange(300).reshape(15, 20) * 200).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        (tmp_path / "d.png").write_bytes(encoded(form, Image.fromarray(depth)))
        np.testing.assert_array_equal(read_image(tmp_path / "d.png", "depth image", ""), depth)


IDS = np.random.default_rng(0).integers(0, 4, (15, 20)).astype(np.uint8)


def palette() -> Image.Image:
    image = Image.fromarray(IDS, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 9, 9, 9] + [0] * 756)
    return image


@pytest.mark.parametrize(
    ("image", "ids"),
    [
        (Image.fromarray(IDS), IDS),
        (palette(), IDS),
        (Image.fromarray(IDS > 1), IDS > 1),
        (Image.fromarray(IDS[..., None].repeat(3, axis=2)), IDS),
        (Image.fromarray(IDS).convert("LA"), IDS),
    ],
    ids=["grey", "palette", "1 bit", "grey in RGB", "grey with alpha"],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_mask_is_read_by_its_ids(tmp_path: Path, form: str, image: Image.Image, ids: np.ndarray) -> None:
    (tmp_path / "m.png").write_bytes(encoded(form, image))
    found = read_ids(tmp_path / "m.png", "")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ids)


@pytest.mark.parametrize(
    ("form", "image", "said"),
    [
        ("JPEG", Image.fromarray(IDS), "is a JPEG, which changes ids"),
        ("PNG", palette().convert("RGB"), "contains RGB pixels, expected class ids"),
        ("PNG", Image.fromarray(IDS.astype(np.uint16)), "expected uint8, or a palette, found uint16"),
    ],
    ids=["jpeg", "colours", "16 bit"],
)
def test_a_mask_without_exact_ids_is_refused(tmp_path: Path, form: str, image: Image.Image, said: str) -> None:
    (tmp_path / "m.png").write_bytes(encoded(form, image))
    with pytest.raises(DatasetError, match=said):
        read_ids(tmp_path / "m.png", "")


def test_images_are_found_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    for name in ("a.JPG", "._b.png", "b.tif", "c.png", "c.jpg", "d.txt"):
        (tmp_path / name).touch()
    finder = ImageFinder()
    assert finder.find(tmp_path / "a", ".png").name == "a.JPG" and finder.find(tmp_path / "b", ".png").name == "b.tif"
    assert finder.find(tmp_path / "d", ".png").name == "d.png"
    with pytest.raises(DatasetError, match=r"two images of one name: c\.jpg, c\.png"):
        finder.find(tmp_path / "c", ".png")


def test_drawn_masks_of_a_recording_may_have_any_format(tmp_path: Path) -> None:
    for name, image in {"1.tif": Image.fromarray(IDS), "2.PNG": palette(), "9.png": palette()}.items():
        (tmp_path / name).write_bytes(encoded("TIFF" if name == "1.tif" else "PNG", image))
    (tmp_path / "._1.tif").write_bytes(b"\0\x05\x16\x07")
    drawn = GroundTruth(tmp_path, ClassList(("a", "b", "c")))
    for stamp in (1, 2):
        np.testing.assert_array_equal(drawn.read(stamp, IDS.shape), IDS)
    assert drawn.read(3, IDS.shape) is None
    assert (drawn.used, drawn.problems, drawn.notes()) == (2, [], ["1 drawn masks have no frame"])
