"""What every CAM network returns, so that every loss works with every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class CamOutput:
    """One forward pass of a CAM network.

    Args:
        tag_logits: (B, K) logits by name of the head; each is trained with the tag loss.
        cams: (B, K, h, w) raw CAM logits.
        stride: pixels of the input a cell of `cams` stands for.
        refined: (B, K, h, w) CAM after the network's own refinement, not negative; None where there is none.
        detached: which of "cams" and "refined" carry no gradient to the backbone.
    """

    tag_logits: Mapping[str, Tensor]
    cams: Tensor
    stride: int
    refined: Tensor | None = None
    detached: frozenset[str] = field(default_factory=frozenset)

    @property
    def activation(self) -> Tensor:
        """The map to make masks from, (B, K, h, w), not negative: the refined CAM, or ReLU of the raw one."""
        return self.refined if self.refined is not None else self.cams.relu()
