"""WeakTr: class activation maps from class tokens, patch tokens and adaptively fused attention of a plain ViT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, ColourNormalisation
from deal_core.models.output import CamOutput, MapFunction
from deal_core.models.vit import Tokens, TokenTransformer, create_vit

Pool = Literal["max", "mean"]
Fused = Literal["both", "attention", "cam"]
Refined = Literal["coarse", "fused", "fine"]

# Of the fusion's bottlenecks, as published; there 72 maps leave 9 units. With only one or two, as a small transformer
# would have, the ReLU is often 0 for every image, and the fusion cannot learn.
_REDUCTION = 8
_LEAST_UNITS = 8


class WeakTr(nn.Module):
    """WeakTr, first stage (Zhu et al. 2023, arXiv 2304.01184).

    A class token for each of the K classes goes through a ViT with the patches. Three heads give tag logits: "class"
    (mean of each class token), "coarse" (spatial mean of S, a 3x3 convolution of the patch tokens) and "fine" (spatial
    mean of F). F is made from S with the attention of all heads and layers, weighted by `AttentionFusion`:

        M = C * ReLU(S)    "fused": C is the weighted attention of class tokens to patches
        F = P M            "fine":  P is the weighted attention of patches to patches

    As published, F and M train the fusion alone: attention, features and S are detached. `CamOutput.refined`, the
    logits "fine" and the maps made with `through_backbone=False` do so; with `through_backbone=True` S and the
    attention carry gradient into convolution, class tokens and backbone. The features that the weights are computed
    from are always detached.

    Args:
        num_classes: K.
        backbone: name of a plain vision transformer of timm with square patches.
        weights: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a .safetensors file.
        backbone_arguments: passed on to `timm.create_model`, e.g. `{"img_size": 128, "patch_size": 8, "depth": 6}`.
            Images may have any size; `img_size` is that of the learned position embeddings.
        mean: of the RGB channels in [0, 1], subtracted from the image.
        std: of the RGB channels in [0, 1], by which the image is divided.
        pool: how the fusion pools features over tokens: "max" or "mean".
        fused: what M is made of: "both" as above, "attention" (C alone) or "cam" (ReLU(S) alone).
        refined: the map that masks are made from. As published "fine"; a small transformer trained from random weights
            attends nearly everywhere, so that P averages over the image, and "fused" serves it better.
        drop_path: stochastic depth in training, rising linearly to this rate in the last block.

    Raises:
        ConfigError: the backbone is unknown or no plain vision transformer, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or of another network.

    >>> net = WeakTr(3, "vit_tiny_patch16_224", backbone_arguments={"depth": 2, "embed_dim": 32, "num_heads": 2})
    >>> net(torch.rand(1, 3, 120, 160)).cams.shape
    torch.Size([1, 3, 7, 10])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "deit_small_patch16_224",
        weights: str = "none",
        backbone_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        pool: Pool = "max",
        fused: Fused = "both",
        refined: Refined = "fine",
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self.normalise_colours = ColourNormalisation(mean, std)
        _check_arguments(weights, pool, fused, refined, drop_path)
        vit = create_vit(backbone, weights, drop_path, dict(backbone_arguments or {}))
        self.backbone = TokenTransformer(vit)
        self.stride = self.backbone.patch_size
        self.num_classes = num_classes
        self.fused = fused
        self.refined = refined
        # Outside of the backbone: they are of this task, and must learn where the backbone is frozen.
        token, position = _class_token(vit, num_classes)
        self.class_tokens = nn.Parameter(token)
        self.class_positions = nn.Parameter(position)
        self.classifier = nn.Conv2d(self.backbone.dim, num_classes, 3, padding=1)
        self.fusion = AttentionFusion(self.backbone.dim, self.backbone.heads, self.backbone.depth, pool)

    def forward(self, image: Tensor) -> CamOutput:
        """Return CAMs and tag logits of `image` (B, 3, H, W), RGB in [0, 1].

        Raises:
            ConfigError: the image is smaller than a patch.
        """
        tokens = self.backbone(self.normalise_colours(image), self.class_tokens + self.class_positions)
        cams = self.classifier(tokens.patches)
        weights = self.fusion([branch.detach() for branch in tokens.branches])
        fused, fine = self._refine(cams.detach(), [a.detach() for a in tokens.attention], weights)
        tag_logits = {
            "class": tokens.tokens[:, : self.num_classes].mean(dim=-1),
            "coarse": cams.mean(dim=(-2, -1)),
            "fine": fine.mean(dim=(-2, -1)),
        }
        # Without gradient the maps are what they are, and the attention of all layers can be freed.
        maps: dict[str, MapFunction] = {"coarse": lambda _: cams, "fused": lambda _: fused, "fine": lambda _: fine}
        if torch.is_grad_enabled():
            maps = self._maps(tokens, weights, cams, fused, fine)
        refined = {"coarse": cams.relu(), "fused": fused, "fine": fine}[self.refined]
        return CamOutput(tag_logits, "coarse", cams, self.stride, maps, refined)

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
            activation = cams.float().relu().flatten(2)
            if self.fused == "attention":
                fused = cross
            else:
                fused = activation if self.fused == "cam" else cross * activation
            fine = fused @ affinity.transpose(1, 2)
        return fused.unflatten(-1, cams.shape[-2:]), fine.unflatten(-1, cams.shape[-2:])


class AttentionFusion(nn.Module):
    """A weight in (0, 1) for the attention of every head and layer, from pooled features (WeakTr's AAF).

    As published, a head's features are every `heads`-th channel of the attention branch, beginning with the head's
    index, and not the contiguous channels the head has written before the output projection.

    Args:
        dim: D, channels of the features.
        heads: of each layer.
        depth: L, number of layers.
        pool: over the tokens, "max" or "mean".
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
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Return weights (B, heads, L) from the attention branches (B, T, D) of L layers."""
        pooled = torch.stack([b.amax(1) if self.pool == "max" else b.mean(1) for b in branches], dim=1)
        features = pooled.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)  # (B, heads, L, D / heads)
        scores = self.squeeze(features).flatten(1)
        return self.excite(scores).unflatten(-1, (self.heads, len(branches)))


def fuse_attention(attention: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted mean (B, T, T) over heads and layers; rows are not normalised again.

    One layer after the other is added up in place of the whole stack, which at 375x500 would be 155 MB a copy.

    Args:
        attention: of each of L layers (B, heads, T, T).
        weights: (B, heads, L).
    """
    scaled = weights.float() / (weights.shape[1] * weights.shape[2])
    mixed = attention[0].new_zeros(weights.shape[0], 1, attention[0][0, 0].numel(), dtype=torch.float32)
    for layer, probabilities in enumerate(attention):
        mixed = torch.baddbmm(mixed, scaled[:, None, :, layer], probabilities.float().flatten(2))
    return mixed.view(weights.shape[0], *attention[0].shape[-2:])


def _class_token(vit: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return K class tokens and their positions, both (K, D): copies of the backbone's, or random where it has none."""
    token = torch.empty(num_classes, vit.embed_dim)
    position = torch.zeros(num_classes, vit.embed_dim)
    nn.init.trunc_normal_(token, std=0.02)
    if vit.cls_token is not None:
        token = vit.cls_token.detach()[0].repeat(num_classes, 1)
        if not vit.no_embed_class:
            position = vit.pos_embed.detach()[0, :1].repeat(num_classes, 1)
    return token, position


def _check_arguments(weights: str, pool: str, fused: str, refined: str, drop_path: float) -> None:
    if not isinstance(weights, str):
        raise ConfigError(f"expected weights as none, hub or the path of a .safetensors file, found {weights!r}")
    options = (
        ("pool", pool, get_args(Pool)),
        ("fused", fused, get_args(Fused)),
        ("refined", refined, get_args(Refined)),
    )
    for option, value, choices in options:
        if value not in choices:
            raise ConfigError(f"expected {option} as {', '.join(choices)}, found {value!r}")
    if not 0 <= drop_path < 1:
        raise ConfigError(f"expected drop_path in [0, 1), found {drop_path!r}")
