"""VOC 2012: lists, tags from XML or mask, palette masks; what is missing or wrong is named."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.layouts import HEIGHT, SBD_NAMES, VOC_NAMES, WIDTH, make_voc, save_palette, voc_mask
from PIL import Image

from deal_core.dataset.check import check_source
from deal_core.dataset.depth_maps import DepthMapsWriter
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.dataset.voc import VOC_CLASSES, open_voc
from deal_core.errors import DatasetError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path) / "VOCdevkit" / "VOC2012"


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", VOC_NAMES["train"]),
        ("val", VOC_NAMES["val"]),
        ("trainval", VOC_NAMES["train"] + VOC_NAMES["val"]),
        ("train_aug", VOC_NAMES["train"] + SBD_NAMES),
        ("", VOC_NAMES["train"] + SBD_NAMES),
    ],
)
def test_each_split_holds_its_list(root: Path, split: str, names: tuple[str, ...]) -> None:
    dataset = open_voc(root, split)
    assert {frame.key for frame in dataset.frames} == {f"VOC2012/{name}" for name in names}
    assert dataset.classes == VOC_CLASSES and len(VOC_CLASSES) == 20
    assert not dataset.has_depth and dataset.depth_kind == "metric"


def test_the_archive_is_found_from_each_of_its_folders(root: Path) -> None:
    for path in (root, root.parent, root.parent.parent):
        assert open_voc(path, "train").path == root


@pytest.mark.parametrize("split", ["trainval", "train_aug"])
def test_masks_are_the_indices_of_the_palette_and_tags_agree(root: Path, split: str) -> None:
    dataset = pickle.loads(pickle.dumps(open_voc(root, split)))
    places = [*VOC_NAMES["train"], *VOC_NAMES["val"], *SBD_NAMES]
    for index, frame in enumerate(dataset.frames):
        sample, expected = dataset.load(index), voc_mask(places.index(frame.name))
        np.testing.assert_array_equal(sample.mask, expected)
        assert sample.image.shape == (HEIGHT, WIDTH, 3) and not sample.depth_valid.any()
        tagged = [k + 1 for k in range(20) if sample.tags[k] == 1]
        assert tagged == [i for i in np.unique(expected).tolist() if i not in (0, 255)]
        assert not np.isnan(sample.tags).any()


def test_without_its_xml_an_image_has_the_tags_of_its_mask(root: Path) -> None:
    expected = open_voc(root, "train").tags
    for file in (root / "Annotations").iterdir():
        file.unlink()
    np.testing.assert_array_equal(open_voc(root, "train").tags, expected)


def test_difficult_objects_count_and_their_parts_do_not(root: Path) -> None:
    (root / "Annotations" / "2007_000001.xml").write_text(
        "<annotation><object><name>cat</name><difficult>1</difficult><part><name>head</name></part></object></annotation>"
    )
    assert open_voc(root, "train").frames[0].tags.present == ("cat",)


def test_lists_with_paths_and_elsewhere_are_read(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").unlink()
    name = SBD_NAMES[0]
    (root / "trainaug.txt").write_text(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n\n")
    assert [frame.name for frame in open_voc(root, "train_aug").frames] == [name]


def test_additional_images_may_have_no_mask(root: Path) -> None:
    for file in (root / "SegmentationClassAug").iterdir():
        file.unlink()
    dataset = open_voc(root, "train_aug")
    assert dataset.load(0).mask is None and dataset.tags.sum() > 0
    assert dataset.notes == ("6 of 6 images have no mask in SegmentationClassAug",)


def test_an_image_keeps_its_side_whichever_split_lists_it(root: Path) -> None:
    held = [
        {f.key for f in open_voc(root, s).split_by_segment(0.5, seed=4).held_out.frames} for s in ("train", "trainval")
    ]
    assert held[0] and held[0] <= held[1]


def rgb_mask(root: Path) -> None:
    file = root / "SegmentationClass" / "2007_000001.png"
    Image.open(file).convert("RGB").save(file)


def wrong_id(root: Path) -> None:
    save_palette(root / "SegmentationClass" / "2007_000001.png", np.full((HEIGHT, WIDTH), 38, np.uint8))


def other_size(root: Path) -> None:
    save_palette(root / "SegmentationClass" / "2007_000001.png", np.zeros((5, 7), np.uint8))


def cut(folder: str, name: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / folder / name
        file.write_bytes(file.read_bytes()[:-30])

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (rgb_mask, r"2007_000001\.png contains RGB pixels, expected class ids.*save the ids instead"),
        (wrong_id, r"2007_000001\.png contains id 38, expected 0 to 20"),
        (other_size, r"2007_000001\.png: expected uint8 of the colour image's size \(48, 64\), found uint8 \(5, 7\)"),
        (cut("SegmentationClass", "2007_000001.png"), r"mask .*2007_000001\.png is damaged"),
        (cut("JPEGImages", "2007_000001.jpg"), r"image .*2007_000001\.jpg is damaged"),
    ],
)
def test_files_that_are_wrong_are_named_at_load_and_by_check(
    root: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(root)
    dataset = open_voc(root, "train")
    with pytest.raises(DatasetError, match=said):
        dataset.load(0)
    dataset.load(1)
    report = check_source(SourceSettings(path=root, format="voc", split="train"))
    assert len(report.errors) == 1 and report.recordings[0].frames == 4


def without(*files: str) -> Callable[[Path], None]:
    return lambda root: [(root / file).unlink() for file in files] and None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            without("ImageSets/Segmentation/train_aug.txt"),
            r"no list of the split train_aug: expected .*train_aug\.txt.*SBD",
        ),
        (
            without("JPEGImages/2007_000001.jpg", "JPEGImages/2010_000007.jpg"),
            r"lacks 2 of 6 images of the split train_aug: JPEGImages/2007_000001.jpg, JPEGImages/2010_000007.jpg;",
        ),
        (
            without("Annotations/2010_000007.xml", "SegmentationClassAug/2010_000007.png"),
            r"1 of 6 images of the split train_aug have no tags.*found neither for 2010_000007",
        ),
        (lambda root: (root / "Annotations/2007_000001.xml").write_text("<a>"), r"2007_000001\.xml cannot be read"),
        (
            lambda root: (root / "Annotations/2007_000001.xml").write_text("<a><object><name>mug</name></object></a>"),
            r"2007_000001\.xml names 'mug', expected one of aeroplane",
        ),
        (
            lambda root: (root / "ImageSets/Segmentation/train_aug.txt").write_text("\n"),
            "is empty, expected names of images",
        ),
        (
            lambda root: (root / "ImageSets/Segmentation/train_aug.txt").write_text("2007_000001\n2007_000001\n"),
            "names 1 images twice: 2007_000001",
        ),
    ],
)
def test_what_is_missing_is_counted_and_named(root: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(root)
    with pytest.raises(DatasetError, match=said):
        open_voc(root)
    assert len(check_source(SourceSettings(path=root, format="voc")).errors) == 1


def test_what_is_no_voc_or_no_split_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a VOC 2012 dataset: expected JPEGImages"):
        open_voc(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"no split 'trian'.*Did you mean 'train'"):
        open_voc(root, "trian")


def test_an_image_in_which_nothing_is_tagged_is_noted(root: Path) -> None:
    (root / "Annotations" / "2007_000001.xml").write_text("<annotation/>")
    report = check_source(SourceSettings(path=root, format="voc", split="train"))
    assert report.errors == [] and any("1 images have no tag" in note for note in report.notes)


def test_estimated_depth_of_any_layout(root: Path, tmp_path: Path) -> None:
    writer = DepthMapsWriter(tmp_path / "depth", "inverse", "m")
    source = SourceSettings(path=root, format="voc", split="val", depth=tmp_path / "depth")
    ramp = np.tile(np.arange(1.0, WIDTH + 1), (HEIGHT, 1))
    writer.write("VOC2012/2007_000005", ramp)
    with pytest.raises(DatasetError, match=r"lacks the depth maps of 1 of 2 images .*: VOC2012/2008_000006\.png; make"):
        open_dataset(source)
    assert "lacks the depth maps of 1" in check_source(source).errors[0]
    writer.write("VOC2012/2008_000006", ramp[:, :50])
    dataset = open_dataset(source)
    assert dataset.has_depth and dataset.depth_kind == "inverse" and dataset.subset().depth_kind == "inverse"
    np.testing.assert_allclose(dataset.load(0).depth, ramp / WIDTH, atol=1e-4)
    assert dataset.load(0).depth_valid.all()
    report = check_source(source)
    assert report.depth_kind == "inverse" and len(report.errors) == 1
    assert "size (48, 64), found uint16 (48, 50)" in report.errors[0]


def test_settings_that_mean_nothing_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="class_ids"):
        open_dataset(SourceSettings(path=root, format="voc", class_ids="category"))
    with pytest.raises(UsageError, match="no recording 'x'"):
        open_dataset(SourceSettings(path=root, format="voc", recordings=("x",)))


def test_grey_jpegs_become_rgb(root: Path) -> None:
    cv2.imwrite(str(root / "JPEGImages" / "2007_000001.jpg"), np.full((HEIGHT, WIDTH), 90, np.uint8))
    assert open_voc(root, "train").load(0).image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_from_any_editor_is_read(root: Path, encoding: str) -> None:
    text = "\r\n".join([*VOC_NAMES["val"], "", ""])
    (root / "ImageSets/Segmentation/val.txt").write_bytes(text.encode(encoding))
    assert [frame.name for frame in open_voc(root, "val").frames] == list(VOC_NAMES["val"])


def test_a_name_keeps_its_folder_its_dots_and_its_spaces(root: Path) -> None:
    names = ("kitchen/frame.0001", "lab/frame.0001", "my photo")
    for name in names:
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
            (root / folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(root / folder / f"2007_000001{suffix}", root / folder / f"{name}{suffix}")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names))
    dataset = open_voc(root, "train")
    assert sorted(frame.name for frame in dataset.frames) == sorted(names)
    assert all(dataset.load(frame).mask is not None for frame in dataset.frames)


def test_images_may_have_another_suffix(root: Path) -> None:
    jpg = root / "JPEGImages" / "2007_000005.jpg"
    jpg.rename(jpg.with_suffix(".JPG"))
    Image.open(root / "JPEGImages" / "2008_000006.jpg").save(root / "JPEGImages" / "2008_000006.png")
    (root / "JPEGImages" / "2008_000006.jpg").unlink()
    dataset = open_voc(root, "val")
    assert [dataset.load(frame).image.shape for frame in dataset.frames] == [(HEIGHT, WIDTH, 3)] * 2


def test_a_list_that_is_too_long_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 64 MB would fill the memory, and to look for each of its names in all of them would take hours."""
    file = root / "ImageSets/Segmentation/train.txt"
    file.write_text("".join(f"{number}\n" for number in range(200_000)) + "7\n")
    with pytest.raises(DatasetError, match="names 1 images twice: 7"):
        open_voc(root, "train")
    monkeypatch.setenv("DEAL_LIMITS", "listed_images=199999")
    with pytest.raises(DatasetError, match=r"train\.txt: 200000 images are over the limit of 199999"):
        open_voc(root, "train")


def test_an_annotation_that_is_too_large_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAL_LIMITS", "description_bytes=20")
    with pytest.raises(DatasetError, match=r"\.xml cannot be read .*over the limit of 20"):
        open_voc(root, "train")
