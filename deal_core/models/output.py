"""Outputs of networks: one class for all CAM networks, so that every loss works with each, and one for segmenters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint
from deal_core.losses.activation import CamActivation, activate

MapFunction = Callable[[bool], Tensor]
"""Makes a map (B, K, h, w); the argument says whether gradients reach the backbone, or only the later layers."""


@dataclass(frozen=True)
class CamOutput:
    """The output of a CAM network.

    Args:
        tag_logits: (B, K) logits by name of the head; the tag loss trains each head.
        cam_head: Name of the head that takes the spatial mean of `cams`.
        cams: (B, K, h, w) raw CAM logits, with gradients to the backbone.
        stride: Pixels of the input per cell of `cams`, along each side.
        maps: Functions that make the maps for losses, by name.
        refined: (B, K, h, w) non-negative CAM after refinement by the network; None for a network without refinement.
        activated: How raw CAM logits become non-negative.
        corners: Whether the outermost cells of the maps lie on the outermost pixels of the image (`align_corners=True`
            of PyTorch), or each cell lies in the middle of its share of the image.
    """

    tag_logits: Mapping[str, Tensor]
    cam_head: str
    cams: Tensor
    stride: int
    maps: Mapping[str, MapFunction]
    refined: Tensor | None = None
    activated: CamActivation = "relu"
    corners: bool = False

    @property
    def activation(self) -> Tensor:
        """The map (B, K, h, w) for masks, non-negative: the refined CAM, or the activated raw CAM."""
        return self.refined if self.refined is not None else activate(self.cams, self.activated)

    def map(self, name: str | None = None, through_backbone: bool = True) -> Tensor:
        """Return a map (B, K, h, w).

        Args:
            name: Name of one of `maps`; default: the raw CAM.
            through_backbone: Whether a loss on the map also trains the backbone; the values are the same.

        Raises:
            ConfigError: the network has no such map.
        """
        if name is None and through_backbone:
            return self.cams
        chosen = next(iter(self.maps)) if name is None else name
        if chosen not in self.maps:
            raise ConfigError(
                f"the network has no map '{chosen}': expected one of {', '.join(self.maps)}."
                f"{nearest_hint(chosen, self.maps)}"
            )
        return self.maps[chosen](through_backbone)


@dataclass(frozen=True)
class SegmenterOutput:
    """The output of a segmenter: logits (B, K + 1, h, w), background first."""

    logits: Tensor

    @property
    def scores(self) -> Tensor:
        """(B, K, h, w) float32 in [0, 1]: each class against the background alone.

        The strongest class keeps the largest score, which is above 1/2 exactly where it beats the background.
        """
        logits = self.logits.float()
        return (logits[:, 1:] - logits[:, :1]).sigmoid()


@dataclass(frozen=True)
class Consistency:
    """The consistency losses of a network on two views of the same images.

    Args:
        second: Output for the second view; the tag loss is the mean over the two views.
        losses: Weighted scalars by name, added to the total loss.
    """

    second: CamOutput
    losses: Mapping[str, Tensor]


@runtime_checkable
class ConsistentNetwork(Protocol):
    """A network with losses that compare two views, such as SEAM."""

    def consistency(self, image: Tensor, tags: Tensor, first: CamOutput) -> Consistency:
        """Return the output for the second view, and the losses on the two views.

        Args:
            image: (B, 3, H, W) first view.
            tags: (B, K) in {1, 0, nan}.
            first: Output for the first view.
        """
        ...


@runtime_checkable
class MappedNetwork(Protocol):
    """A network whose layers after the backbone see nothing of the image but its feature maps."""

    levels: tuple[int, ...]
    """Indices of the feature levels."""

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (B, C, h, w) of `image` (B, 3, H, W), RGB in [0, 1], from fine to coarse."""
        ...

    def of_maps(self, maps: Sequence[Tensor]) -> Any:
        """Return the output for feature maps, which may be crops along the cells of the coarsest one."""
        ...
