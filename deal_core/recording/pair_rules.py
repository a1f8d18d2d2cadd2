"""The rules that every pair of colour and depth must pass, in recordings, in the recorder and in the node."""

from __future__ import annotations

from typing import Protocol


class HasPlace(Protocol):
    """An image that says where it was taken: size (H, W) in pixels, and optical frame."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""

    @property
    def frame_id(self) -> str:
        """Optical frame."""


def is_same_frame(one: str, other: str) -> bool:
    """Return whether two frame ids name one frame; a leading slash, which tf2 drops, does not count."""
    return one.lstrip("/") == other.lstrip("/")


def alignment_fault(color: HasPlace, depth: HasPlace, *, aligned: bool = False) -> str:
    """Return why depth is not aligned to colour, as in "colour is 640x480, depth is 848x480"; empty if it is.

    Args:
        color: colour image; a size with a 0 is unknown, and fits every size.
        depth: depth image.
        aligned: whether depth is known to be aligned, so that the names of the frames do not matter.
    """
    if color.size != depth.size and 0 not in (*color.size, *depth.size):
        return f"colour is {size_text(color.size)}, depth is {size_text(depth.size)}"
    if not aligned and not is_same_frame(color.frame_id, depth.frame_id):
        return f"colour is in frame '{color.frame_id}', depth in '{depth.frame_id}'"
    return ""


def size_text(size: tuple[int, ...]) -> str:
    """Return a size (H, W, ...) as in "640x480"."""
    return f"{size[1]}x{size[0]}"
