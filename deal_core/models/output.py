"""The outputs of networks: one form for all CAM networks, so that every loss works with each, and the segmenter's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint

MapFunction = Callable[[bool], Tensor]
"""Makes a map (B, K, h, w); the argument says whether gradient reaches the backbone, or only the layers behind it."""


@dataclass(frozen=True)
class CamOutput:
    """One forward pass of a CAM network.

    Args:
        tag_logits: (B, K) logits by name of the head; each is trained with the tag loss.
        cam_head: the head whose logits are the spatial mean of `cams`.
        cams: (B, K, h, w) raw CAM logits, with gradient to the backbone.
        stride: pixels of the input a cell of `cams` stands for.
        maps: every map that a loss may act on, by name; made when asked for.
        refined: (B, K, h, w) CAM after the network's own refinement, not negative; None for a network without one.
    """

    tag_logits: Mapping[str, Tensor]
    cam_head: str
    cams: Tensor
    stride: int
    maps: Mapping[str, MapFunction]
    refined: Tensor | None = None

    @property
    def activation(self) -> Tensor:
        """The map to make masks from, (B, K, h, w), not negative: the refined CAM, or ReLU of the raw one."""
        return self.refined if self.refined is not None else self.cams.relu()

    def map(self, name: str | None = None, through_backbone: bool = True) -> Tensor:
        """Return the map (B, K, h, w) called `name`; the raw CAM when left out.

        Args:
            name: one of `maps`.
            through_backbone: whether a loss on it trains the backbone too. The values are the same either way.

        Raises:
            ConfigError: the network has no such map; the message names those it has.
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
    """One forward pass of a network that was trained on masks.

    Args:
        logits: (B, K + 1, h, w), background first.
    """

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
    """What a network asks of two views of the same images.

    Args:
        second: output for the second view; its tag loss is averaged with that of the first.
        losses: scalars by name, weighted, that are added to the total.
    """

    second: CamOutput
    losses: Mapping[str, Tensor]


@runtime_checkable
class ConsistentNetwork(Protocol):
    """A network with losses of its own that compare two views, as SEAM's."""

    def consistency(self, image: Tensor, tags: Tensor, first: CamOutput) -> Consistency:
        """Return the second view and what the two should agree on.

        Args:
            image: (B, 3, H, W), the first view.
            tags: (B, K) in {1, 0, nan}.
            first: output for the first view.
        """
        ...
