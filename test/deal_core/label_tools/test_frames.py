"""Images of other tools are matched with frames by their names and folders, or refused."""

from __future__ import annotations

import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.frames import match_frames


@pytest.mark.parametrize(
    "image",
    [
        "hall/2000000000.png",
        "hall/2000000000",
        "hall/color/2000000000.jpg",
        "recordings/hall/color/2000000000.png",
        "/data/local-files/?d=images/hall/2000000000.png",
        "/data/local-files/?d=images%2Fhall%2F2000000000.png",
        "s3://bucket/hall/2000000000.PNG",
        "C:\\frames\\hall\\2000000000.png",
        "train/hall/abcdef12-2000000000.png",
    ],
)
def test_the_folders_before_a_name_say_which_recording_it_is(image: str, dataset: Dataset) -> None:
    found = match_frames([image], dataset, "source")
    assert found.images == {"hall/2000000000": image} and found.strangers == ()


def test_a_name_alone_is_enough_where_it_is_the_only_one(dataset: Dataset) -> None:
    one = dataset.subset(recordings=["shop"])
    found = match_frames(["3000000000.png", "other.png"], one, "source")
    assert found.images == {"shop/3000000000": "3000000000.png"} and found.strangers == ("other.png",)


def test_an_ambiguous_name_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"'1000000000.png' can be hall/1000000000 or shop/1000000000"):
        match_frames(["1000000000.png"], dataset, "source")


def test_a_frame_of_another_recording_is_a_stranger(dataset: Dataset) -> None:
    hall = dataset.subset(recordings=["hall"])
    found = match_frames(["recordings/shop/color/1000000000.png", "hall/1000000000.png"], hall, "source")
    assert found.images == {"hall/1000000000": "hall/1000000000.png"}
    assert found.strangers == ("recordings/shop/color/1000000000.png",)


def test_two_images_of_one_frame_are_refused_unless_one_fits_better(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"two images are the frame hall/1000000000: 'a/hall/1000000000\.png'"):
        match_frames(["a/hall/1000000000.png", "b/hall/1000000000.png"], dataset, "source")
    one = dataset.subset(recordings=["hall"])
    found = match_frames(["hall/1000000000.png", "elsewhere/1000000000.png"], one, "source")
    assert found.images == {"hall/1000000000": "hall/1000000000.png"}
    assert found.strangers == ("elsewhere/1000000000.png",)


def test_a_source_without_any_frame_is_refused(dataset: Dataset) -> None:
    with pytest.raises(
        DatasetError, match=r"no image is a frame .* expected names like hall/1000000000, found 'x.png'"
    ):
        match_frames(["x.png"], dataset, "source")
    with pytest.raises(DatasetError, match="found no image"):
        match_frames([], dataset, "source")
