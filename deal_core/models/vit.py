"""Tokens and attention of a plain vision transformer of timm, with additional prefix tokens, at any image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Attention, Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.models.backbone import (
    InitialWeights,
    check_timm_name,
    explain_timm_errors,
    hub_arguments,
    load_backbone_weights,
    refuse_own_arguments,
)

# Arguments of timm.create_model that the network sets, or that have no effect on tokens and attention.
_REFUSED = ("num_classes", "drop_path_rate", "patch_drop_rate", "drop_rate", "dynamic_img_size", "dynamic_img_pad")
_BLOCK_PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}


@dataclass(frozen=True)
class Tokens:
    """The output of a transformer: T tokens, first the prefix and last the h x w patches, row by row.

    Args:
        tokens: (B, T, D) tokens after the last block, without the final norm.
        grid: (h, w) of the patches.
        attention: Attention (B, heads, T, T) of each layer, after the softmax; rows sum to 1.
        branches: Output (B, T, D) of the attention of each layer, before its addition to the tokens.
    """

    tokens: Tensor
    grid: tuple[int, int]
    attention: tuple[Tensor, ...]
    branches: tuple[Tensor, ...]

    @property
    def patches(self) -> Tensor:
        """The patch tokens as a map (B, D, h, w)."""
        h, w = self.grid
        return self.tokens[:, -h * w :].transpose(1, 2).unflatten(-1, (h, w))


class TokenTransformer(nn.Module):
    """The body of a timm vision transformer that also returns its attention, and takes images of any size.

    Position embeddings are resized bicubically to the grid of the image. The final norm exists only so that weights
    fit: it is neither applied nor trained.

    Args:
        vit: Transformer made by `create_vit`; its modules are shared, not copied.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.initial_weights: InitialWeights = vit.initial_weights
        self.dim = int(vit.embed_dim)
        self.heads = int(vit.blocks[0].attn.num_heads)
        self.depth = len(vit.blocks)
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.native_grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.patch_embed = vit.patch_embed
        self.pos_drop = vit.pos_drop
        self.norm_pre = vit.norm_pre
        self.blocks = vit.blocks
        self.norm = vit.norm.requires_grad_(False)
        count = self.native_grid[0] * self.native_grid[1]
        self.positions = nn.Parameter(vit.pos_embed.detach()[:, -count:].clone())
        self.registers = None if vit.reg_token is None else nn.Parameter(_registers(vit))

    def forward(self, image: Tensor, prefix: Tensor) -> Tokens:
        """Return tokens and attention of a normalised image.

        Args:
            image: (B, 3, H, W) normalised image; H and W are multiples of `patch_size`.
            prefix: (P, D) tokens before the patches, with their position embeddings.
        """
        patches = self.patch_embed.proj(image)
        grid = (patches.shape[-2], patches.shape[-1])
        patches = self.patch_embed.norm(patches.flatten(2).transpose(1, 2)) + self.positions_at(grid)
        first = prefix if self.registers is None else torch.cat([prefix, self.registers])
        tokens = torch.cat([first.expand(image.shape[0], -1, -1).to(patches.dtype), patches], dim=1)
        tokens = self.norm_pre(self.pos_drop(tokens))
        attention, branches = [], []
        for block in self.blocks:
            branch, probabilities = _attend(block.attn, block.norm1(tokens))
            tokens = tokens + block.drop_path1(block.ls1(branch))
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            attention.append(probabilities)
            branches.append(branch)
        return Tokens(tokens, grid, tuple(attention), tuple(branches))

    def positions_at(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings (1, h * w, D) of a grid (h, w) of patches."""
        if grid == self.native_grid:
            return self.positions
        native = self.positions.transpose(1, 2).unflatten(-1, self.native_grid)
        return F.interpolate(native, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def create_vit(name: str, weights: str, drop_path: float, arguments: Mapping[str, Any]) -> VisionTransformer:
    """Make a timm vision transformer without a classifier.

    Args:
        name: Name of the timm model.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a weights file;
            position embeddings of another grid and patch filters of another size are resized.
        drop_path: Rate of stochastic depth in the last block; it increases linearly from 0 in the first block.
        arguments: Further arguments of `timm.create_model`, such as `{"patch_size": 8, "depth": 6}`.

    Raises:
        ConfigError: the model is unknown, is no plain vision transformer with square patches, or refuses an argument.
        ModelFileError: the weights file is missing, damaged or from another network.
    """
    check_timm_name("backbone", name, "a vision transformer of timm", ("*vit*", "deit*"))
    refuse_own_arguments("backbone_arguments", arguments, _REFUSED)
    with explain_timm_errors(name, f"backbone '{name}' with arguments {dict(arguments)}"):
        chosen = {**arguments, **hub_arguments(name, weights)}
        vit = timm.create_model(name, num_classes=0, drop_path_rate=drop_path, **chosen)
    _check_plain(name, vit)
    vit.initial_weights = InitialWeights(weights)
    if weights not in ("none", "hub"):
        vit.initial_weights = load_backbone_weights(
            vit, Path(weights), adapt=lambda tensors: checkpoint_filter_fn(tensors, vit)
        )
    return vit


def _attend(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output (B, T, D) of timm's attention, and its probabilities (B, heads, T, T)."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q) * attention.scale, attention.k_norm(k)
    probabilities = _softmax((q @ k.transpose(-2, -1)).float())
    mixed = (attention.attn_drop(probabilities) @ v).transpose(1, 2).flatten(2)
    if hasattr(attention, "norm"):  # older versions of timm have no norm
        mixed = attention.norm(mixed)
    return attention.proj_drop(attention.proj(mixed)), probabilities


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis; without gradients, computed in place, since `scores` are large."""
    if torch.is_grad_enabled():
        return scores.softmax(dim=-1)
    if scores.device.type == "cpu":  # row by row, in one pass over the memory
        return torch.softmax(scores, dim=-1, out=scores)
    scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))


def _check_plain(name: str, vit: Any) -> None:
    """Raise `ConfigError` for models for which `TokenTransformer` would differ from timm."""
    plain = (
        type(vit) is VisionTransformer
        and type(vit.patch_embed) is PatchEmbed
        and vit.pos_embed is not None
        and len(vit.blocks) > 0
        and all(type(block) is Block and type(block.attn) is Attention for block in vit.blocks)
        and all({n for n, _ in block.named_children()} <= _BLOCK_PARTS for block in vit.blocks)
        and all({n for n, _ in block.attn.named_children()} <= _ATTENTION_PARTS for block in vit.blocks)
    )
    if not plain:
        raise ConfigError(
            f"backbone '{name}' is no plain vision transformer: expected patches of one convolution, learned position "
            "embeddings, at most one class token and blocks of attention and MLP, as 'deit_small_patch16_224' has them"
        )
    height, width = vit.patch_embed.patch_size
    if height != width:
        raise ConfigError(f"expected square patches, found {height}x{width} in backbone '{name}'")


def _registers(vit: VisionTransformer) -> Tensor:
    registers = vit.reg_token.detach()[0].clone()
    if not vit.no_embed_class:
        first = int(vit.has_class_token)
        registers += vit.pos_embed.detach()[0, first : first + len(registers)]
    return registers
