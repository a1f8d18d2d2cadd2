"""`deal segment` writes what the run-time segmenter says, under the image's name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from deal_core.errors import DatasetError, UsageError
from deal_core.runtime.segmenter import Segmenter
from training.cli import app


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.output


@pytest.mark.slow
def test_masks_equal_the_segmenter(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"one.png": (60, 80), "two.png": (33, 47)}.items():
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    run(model, folder, "--out", tmp_path / "masks")
    segmenter = Segmenter.load(model, device="cpu")
    for name in ("one.png", "two.png"):
        rgb = cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB)
        written = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, segmenter.segment(rgb).mask)
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        "one.png",
        "one_overlay.png",
        "two.png",
        "two_overlay.png",
    ]


def test_what_is_no_image_is_named(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"image .*broken\.png is damaged \(8 bytes\)"):
        run(model, broken, "--out", tmp_path / "masks")
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"broken\.png cannot be written \(choose another output\): File exists"):
        run(model, image, "--out", broken)
    with pytest.raises(UsageError, match="found nothing"):
        run(model, tmp_path / "missing.png", "--out", tmp_path / "masks")
    with pytest.raises(UsageError, match="no image among"):
        run(model, model, "--out", tmp_path / "masks")


@pytest.mark.slow
def test_depth_goes_to_a_model_that_uses_it(model: Path, rgbd_model: Path, tmp_path: Path) -> None:
    images, depths = tmp_path / "images", tmp_path / "depths"
    rng = np.random.default_rng(0)
    for folder in (images, depths):
        folder.mkdir()
    for name in ("one", "two"):
        cv2.imwrite(str(images / f"{name}.png"), rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    cv2.imwrite(str(depths / "one.png"), np.full((32, 32), 400, np.uint16))
    run(rgbd_model, images, "--depth", depths, "--out", tmp_path / "masks", "--device", "cpu")
    segmenter = Segmenter.load(rgbd_model, device="cpu")
    for name, depth in {"one": np.full((32, 32), 0.4, np.float32), "two": None}.items():
        rgb = cv2.cvtColor(cv2.imread(str(images / f"{name}.png")), cv2.COLOR_BGR2RGB)
        written = cv2.imread(str(tmp_path / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, segmenter.segment(rgb, depth).mask)
    cv2.imwrite(str(depths / "two.png"), np.full((8, 8), 400, np.uint16))
    with pytest.raises(DatasetError, match=r"two\.png: expected uint16 of the colour image's size \(32, 32\)"):
        run(rgbd_model, images, "--depth", depths, "--out", tmp_path / "masks")
    with pytest.raises(UsageError, match="does not use depth"):
        run(model, images, "--depth", depths, "--out", tmp_path / "masks")


def image_file(file: Path, suffix: str = ".png") -> bytes:
    """Write a picture of noise to a file, in the format of a suffix, and return its bytes."""
    file.parent.mkdir(exist_ok=True)
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    file.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    return file.read_bytes()


def test_masks_never_land_on_photos_or_depth(model: Path, rgbd_model: Path, tmp_path: Path) -> None:
    photos, depths = tmp_path / "photos", tmp_path / "depths"
    before = image_file(photos / "a.png")
    depths.mkdir()
    (tmp_path / "link").symlink_to(photos)
    for out in (photos, tmp_path / "link", photos / ".." / "photos"):
        with pytest.raises(UsageError, match="would replace what is read"):
            run(model, photos, "--out", out)
    with pytest.raises(UsageError, match="would replace what is read"):
        run(rgbd_model, photos, "--depth", depths, "--out", depths)
    with pytest.raises(UsageError, match="would replace what is read"):
        run(model, photos / "a.png", "--out", photos)
    with pytest.raises(UsageError, match="would replace what is read"):
        run(model, tmp_path / "link" / "a.png", "--out", photos)
    assert (photos / "a.png").read_bytes() == before and [p.name for p in photos.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_a_folder_is_read_by_its_bytes_and_the_rest_is_told(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, suffix in {"a.png": ".png", "b": ".jpg", "c.JPG": ".webp", "d.tif": ".tif"}.items():
        image_file(photos / name, suffix)
    (photos / "._a.png").write_bytes(b"\0\x05\x16\x07" + bytes(100))
    (photos / ".DS_Store").write_bytes(bytes(100))
    (photos / "notes.txt").write_text("two mugs")
    (photos / "more").mkdir()
    said = run(model, photos, "--out", tmp_path / "masks")
    assert "passed over, no images: 3 files, as .DS_Store, ._a.png, notes.txt" in said
    made = {p.name for p in (tmp_path / "masks").iterdir()}
    assert made == {f"{name}{end}.png" for name in "abcd" for end in ("", "_overlay")}


def test_images_whose_masks_would_have_one_name_are_refused(model: Path, tmp_path: Path) -> None:
    image_file(tmp_path / "photos" / "a.png")
    image_file(tmp_path / "photos" / "a_overlay.png")
    with pytest.raises(UsageError, match=r"a\.png and .*a_overlay\.png would both be written to a_overlay\.png"):
        run(model, tmp_path / "photos", "--out", tmp_path / "masks")


def test_a_folder_without_an_image_says_what_it_has(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UsageError, match=r"no image among .*, found 1 files, as a\.heic"):
        run(model, tmp_path / "photos", "--out", tmp_path / "masks")
