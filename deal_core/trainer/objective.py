"""The objective of a training: the network's own losses and the added losses."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from deal_core.dataset.transforms import TensorSample
from deal_core.losses.depth_edge import DepthEdgeAlignmentLoss, DepthEdgeOptions, DepthEdges
from deal_core.losses.feature_similarity import feature_similarity_loss
from deal_core.losses.importance_sampling import importance_sampling_loss
from deal_core.losses.seeds import seed_loss
from deal_core.losses.tags import tag_loss
from deal_core.models.output import CamOutput, ConsistentNetwork
from deal_core.structures import DepthKind
from deal_core.trainer.settings import DealSettings, TrainSettings
from deal_core.trainer.views import output_of

_DEAL_OPTIONS = [field.name for field in fields(DepthEdgeOptions) if field.name in DealSettings.model_fields]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the added losses at one step of the training; a loss with weight 0 gives no gradient."""

    deal: float = 0.0
    isl: float = 0.0
    fsl: float = 0.0
    taps: float = 0.0


class Objective(nn.Module):
    """A network together with its losses: maps a batch to named scalars; training minimises the first.

    The network's own losses are the sum of the tag losses of its heads and, for a `ConsistentNetwork`, its losses on
    two views; the tag losses are then the mean over the views. The added losses are DEAL and FSL, each on the map that
    its settings name, ISL, which replaces a share of the tag loss of the raw CAM of the first view, and, for batches
    with masks of what a person showed, the seed loss of that CAM.

    Args:
        network: Network that returns a `CamOutput`.
        settings: Settings of the training.
        depth_kind: Kind of the depth in the batches.
    """

    def __init__(self, network: nn.Module, settings: TrainSettings, depth_kind: DepthKind = "metric") -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.alignment = alignment_loss(settings.deal, settings.data.image_size, depth_kind)
        self._known_edges: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, batch: TensorSample, weights: LossWeights, tag_share: float = 1.0) -> dict[str, Tensor]:
        """Return `loss` and its parts; with weight 0, the edge loss is computed without gradient.

        Args:
            batch: Batch of this process.
            weights: Weights of the added losses.
            tag_share: Number of known tags in this batch relative to the mean over all processes. Gradients are
                averaged over processes, so this factor makes every image count the same.
        """
        first: CamOutput = output_of(self.network, batch)
        tags = self._tag_losses(first, batch.tags, weights.isl)
        parts: dict[str, Tensor] = {}
        if isinstance(self.network, ConsistentNetwork):
            image = batch.image.contiguous(memory_format=torch.channels_last)
            agreement = self.network.consistency(image, batch.tags, first)
            tags = 0.5 * (tags + self._tag_losses(agreement.second, batch.tags))
            parts.update({f"loss_{name}": value for name, value in agreement.losses.items()})
        tags = tag_share * tags
        loss = torch.stack([tags, *parts.values()]).sum()
        if weights.fsl > 0:
            parts["loss_fsl"] = self._feature_similarity(first, batch)
            loss = loss + weights.fsl * parts["loss_fsl"]
        if batch.mask is not None:
            parts["loss_taps"] = seed_loss(first.cams, batch.mask)
            loss = loss + weights.taps * parts["loss_taps"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights.deal > 0):
            cams = first.map(self.settings.deal.map, self.settings.deal.through_backbone)
            terms = self.alignment.terms(
                cams, batch.depth, batch.tags, batch.valid, corners=first.corners, edges=self._depth_edges(batch)
            )
        if weights.deal > 0:
            loss = loss + weights.deal * terms.loss
        return {"loss": loss, "loss_tags": tags, "loss_deal": terms.loss, "deal_flat": terms.flat, **parts}

    def _depth_edges(self, batch: TensorSample) -> DepthEdges | None:
        """Return the depth edges of numbered views, which are computed once for each; None for other views."""
        if batch.view is None:
            return None
        numbers = batch.view[:, 0].tolist()
        new = [row for row, number in enumerate(numbers) if number not in self._known_edges]
        if new:
            found = self.alignment.edges(batch.depth[new], batch.valid[new])
            for row, *edges in zip(new, found.strength, found.weight, strict=True):
                self._known_edges[numbers[row]] = (edges[0], edges[1])
        strength, weight = zip(*(self._known_edges[number] for number in numbers), strict=True)
        return DepthEdges(torch.stack(strength), torch.stack(weight))

    def _tag_losses(self, output: CamOutput, tags: Tensor, isl_share: float = 0.0) -> Tensor:
        losses = {head: tag_loss(logits, tags) for head, logits in output.tag_logits.items()}
        if isl_share > 0:
            sampled = importance_sampling_loss(output.cams, tags, samples=self.settings.isl.samples)
            losses[output.cam_head] = (1 - isl_share) * losses[output.cam_head] + isl_share * sampled
        return torch.stack(list(losses.values())).sum()

    def _feature_similarity(self, output: CamOutput, batch: TensorSample) -> Tensor:
        fsl = self.settings.fsl
        cams = output.map(fsl.map, fsl.through_backbone)
        return feature_similarity_loss(cams, batch.image, batch.tags, sigma=fsl.sigma / output.stride, mu=fsl.mu)


def alignment_loss(
    settings: DealSettings, image_size: tuple[int, int], depth_kind: DepthKind = "metric"
) -> DepthEdgeAlignmentLoss:
    """Return the edge loss that the settings describe."""
    options = {name: getattr(settings, name) for name in _DEAL_OPTIONS}
    size = settings.size or (image_size[0] // 4, image_size[1] // 4)
    return DepthEdgeAlignmentLoss(**{**options, "size": size, "depth_kind": depth_kind})
