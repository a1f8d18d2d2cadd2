"""WeakTr: class activation maps from class tokens, patch tokens and adaptively fused attention of a plain ViT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.losses.activation import CamActivation, activate, check_activation
from deal_core.models.backbone import check_weights, colour_scale, to_multiple
from deal_core.models.normalisation import ColourNormalisation
from deal_core.models.output import CamOutput, MapFunction
from deal_core.models.vit import Tokens, TokenTransformer, create_vit

Pool = Literal["max", "mean"]
Fused = Literal["both", "attention", "cam"]
Refined = Literal["coarse", "fused", "fine"]

# Reduction of the bottlenecks of the fusion, as published: 72 maps give 9 units. With only one or two units, as for a
# small transformer, the ReLU is often 0 for every image, and the fusion cannot learn.
_REDUCTION = 8
_LEAST_UNITS = 8


class WeakTr(nn.Module):
    """WeakTr, first stage (Zhu et al. 2023, arXiv 2304.01184).

    A class token for each of the K classes goes through a ViT with the patches. Three heads give tag logits: "class"
    (mean of each class token), "coarse" (spatial mean of S, a 3x3 convolution of the patch tokens) and "fine" (spatial
    mean of F). F is made from S with the attention of all heads and layers, weighted by `AttentionFusion`:

        M = C * ReLU(S)    "fused": C is the weighted attention of class tokens to patches
        F = P M            "fine":  P is the weighted attention of patches to patches

    As published, F and M train only the fusion: attention, features and S are detached in `CamOutput.refined`, in the
    logits "fine" and in maps made with `through_backbone=False`. With `through_backbone=True`, gradients reach
    convolution, class tokens and backbone through S and the attention. Features for the weights are always detached.

    Args:
        num_classes: Number of classes K.
        backbone: Name of a plain vision transformer of timm with square patches.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a weights file
            (.safetensors, .pth, .pt).
        backbone_arguments: Further arguments of `timm.create_model`, e.g. `{"img_size": 128, "patch_size": 8}`. Images
            may have any size; `img_size` is the size of the learned position embeddings.
        mean: Mean of the RGB channels, in [0, 1]; None: as timm has it for these weights, see `colour_scale`.
        std: Standard deviation of the RGB channels, in [0, 1]; None: as `mean`.
        pool: Pooling of features over tokens in the fusion: "max" or "mean".
        fused: Factors of M: "both" as above, "attention" (only C) or "cam" (only ReLU(S)).
        refined: Map for masks; published: "fine". For a small transformer trained from random weights, "fused" is
            better: its attention is nearly uniform, so P averages over the image.
        drop_path: Rate of stochastic depth in the last block; it increases linearly from 0 in the first block.
        activation: How S becomes non-negative: "relu" as published and above, or "above_mean", see
            `deal_core.losses.activation`.

    Raises:
        ConfigError: the backbone is unknown or no plain vision transformer, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or from another network.

    >>> net = WeakTr(3, "vit_tiny_patch16_224", backbone_arguments={"depth": 2, "embed_dim": 32, "num_heads": 2})
    >>> net(torch.rand(1, 3, 120, 160)).cams.shape
    torch.Size([1, 3, 8, 10])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "deit_small_patch16_224",
        weights: str = "none",
        backbone_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pool: Pool = "max",
        fused: Fused = "both",
        refined: Refined = "fine",
        drop_path: float = 0.1,
        activation: CamActivation = "relu",
    ) -> None:
        super().__init__()
        _check_arguments(weights, pool, fused, refined, drop_path)
        vit = create_vit(backbone, weights, drop_path, dict(backbone_arguments or {}))
        scale = colour_scale(backbone, weights, mean, std)
        self.normalise_colours = ColourNormalisation(scale.mean, scale.std)
        self.activation = check_activation(activation)
        self.settled = {"mean": scale.mean, "std": scale.std, "activation": activation}
        self.backbone = TokenTransformer(vit)
        self.stride = self.patch_size = self.backbone.patch_size
        self.num_classes = num_classes
        self.fused = fused
        self.refined = refined
        # Outside of the backbone, because they must also learn if the backbone is frozen.
        token, position = _class_token(vit, num_classes)
        self.class_tokens = nn.Parameter(token)
        self.class_positions = nn.Parameter(position)
        self.classifier = nn.Conv2d(self.backbone.dim, num_classes, 3, padding=1)
        self.fusion = AttentionFusion(self.backbone.dim, self.backbone.heads, self.backbone.depth, pool)

    def forward(self, image: Tensor) -> CamOutput:
        """Return CAMs and tag logits of `image` (B, 3, H, W), RGB in [0, 1], which is resized to whole patches."""
        whole = to_multiple(self.normalise_colours(image), self.patch_size)
        tokens = self.backbone(whole, self.class_tokens + self.class_positions)
        cams = self.classifier(tokens.patches)
        weights = self.fusion([branch.detach() for branch in tokens.branches])
        fused, fine = self._refine(cams.detach(), [a.detach() for a in tokens.attention], weights)
        tag_logits = {
            "class": tokens.tokens[:, : self.num_classes].mean(dim=-1),
            "coarse": cams.mean(dim=(-2, -1)),
            "fine": fine.mean(dim=(-2, -1)),
        }
        # Without gradients, the maps need no attention, so the attention of all layers can be freed.
        maps: dict[str, MapFunction] = {"coarse": lambda _: cams, "fused": lambda _: fused, "fine": lambda _: fine}
        if torch.is_grad_enabled():
            maps = self._maps(tokens, weights, cams, fused, fine)
        refined = {"coarse": activate(cams, self.activation), "fused": fused, "fine": fine}[self.refined]
        return CamOutput(tag_logits, "coarse", cams, self.stride, maps, refined, self.activation)

    def _maps(
        self, tokens: Tokens, weights: Tensor, cams: Tensor, fused: Tensor, fine: Tensor
    ) -> dict[str, MapFunction]:
        def coarse_map(through_backbone: bool) -> Tensor:
            return cams if through_backbone else self.classifier(tokens.patches.detach())

        def fused_map(through_backbone: bool) -> Tensor:
            return self._refine(cams, tokens.attention, weights)[0] if through_backbone else fused

        def fine_map(through_backbone: bool) -> Tensor:
            return self._refine(cams, tokens.attention, weights)[1] if through_backbone else fine

        return {"coarse": coarse_map, "fused": fused_map, "fine": fine_map}

    def _refine(self, cams: Tensor, attention: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused CAM M and the fine CAM F, both (B, K, h, w), in float32."""
        with torch.autocast(cams.device.type, enabled=False):
            mixed = fuse_attention(attention, weights)
            count = cams.shape[-2] * cams.shape[-1]
            cross, affinity = mixed[:, : self.num_classes, -count:], mixed[:, -count:, -count:]
            activation = activate(cams.float(), self.activation).flatten(2)
            if self.fused == "attention":
                fused = cross
            else:
                fused = activation if self.fused == "cam" else cross * activation
            fine = fused @ affinity.transpose(1, 2)
        return fused.unflatten(-1, cams.shape[-2:]), fine.unflatten(-1, cams.shape[-2:])


class AttentionFusion(nn.Module):
    """A weight in (0, 1) for the attention of every head and layer, from pooled features (AAF of WeakTr).

    As published, the features of a head are every `heads`-th channel of the attention branch, starting at the index of
    the head, and not the contiguous channels of the head before the output projection. Its layers start from the
    default initialisation of PyTorch, too: from smaller values every weight would be 1/2, and learn very slowly.

    Args:
        dim: Channels D of the features.
        heads: Number of heads per layer.
        depth: Number of layers L.
        pool: Pooling over the tokens, "max" or "mean".
    """

    def __init__(self, dim: int, heads: int, depth: int, pool: Pool) -> None:
        super().__init__()
        self.heads = heads
        self.pool = pool
        per_head, maps = dim // heads, heads * depth
        narrow, units = max(1, per_head // _REDUCTION), max(_LEAST_UNITS, maps // _REDUCTION)
        self.squeeze = nn.Sequential(nn.Linear(per_head, narrow), nn.Linear(narrow, 1))
        self.excite = nn.Sequential(
            nn.Linear(maps, units, bias=False), nn.ReLU(), nn.Linear(units, maps, bias=False), nn.Sigmoid()
        )

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Return the weights (B, heads, L) from the attention branches (B, T, D) of L layers."""
        pooled = torch.stack([b.amax(1) if self.pool == "max" else b.mean(1) for b in branches], dim=1)
        features = pooled.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)  # (B, heads, L, D / heads)
        scores = self.squeeze(features).flatten(1)
        return self.excite(scores).unflatten(-1, (self.heads, len(branches)))


def fuse_attention(attention: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted mean (B, T, T) over heads and layers, without another normalisation of the rows.

    The sum goes layer by layer, since a stack of all layers would need 155 MB per copy at 375x500 pixels.

    Args:
        attention: Attention (B, heads, T, T) of each of L layers.
        weights: (B, heads, L) weights.
    """
    scaled = weights.float() / (weights.shape[1] * weights.shape[2])
    mixed = attention[0].new_zeros(weights.shape[0], 1, attention[0][0, 0].numel(), dtype=torch.float32)
    for layer, probabilities in enumerate(attention):
        mixed = torch.baddbmm(mixed, scaled[:, None, :, layer], probabilities.float().flatten(2))
    return mixed.view(weights.shape[0], *attention[0].shape[-2:])


def _class_token(vit: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return K class tokens and their positions, both (K, D): copies of that of the backbone, or random without one."""
    token = torch.empty(num_classes, vit.embed_dim)
    position = torch.zeros(num_classes, vit.embed_dim)
    nn.init.trunc_normal_(token, std=0.02)
    if vit.cls_token is not None:
        token = vit.cls_token.detach()[0].repeat(num_classes, 1)
        if not vit.no_embed_class:
            position = vit.pos_embed.detach()[0, :1].repeat(num_classes, 1)
    return token, position


def _check_arguments(weights: str, pool: str, fused: str, refined: str, drop_path: float) -> None:
    check_weights(weights)
    for option, value, kind in (("pool", pool, Pool), ("fused", fused, Fused), ("refined", refined, Refined)):
        if value not in get_args(kind):
            raise ConfigError(f"expected {option} as {', '.join(get_args(kind))}, found {value!r}")
    if not 0 <= drop_path < 1:
        raise ConfigError(f"expected drop_path in [0, 1), found {drop_path!r}")
