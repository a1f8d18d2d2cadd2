"""Tokens and attention of a plain vision transformer from timm, with additional prefix tokens, at any image size."""

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

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.cam_net import load_backbone_weights, no_download

# Of timm.create_model: set from our own arguments, able to load a pickle, or without an effect on tokens and attention.
_REFUSED_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "num_classes",
    "drop_path_rate",
    "patch_drop_rate",
    "drop_rate",
    "dynamic_img_size",
    "dynamic_img_pad",
)
_BLOCK_PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}


@dataclass(frozen=True)
class Tokens:
    """What a transformer makes of an image: T tokens, the prefix first, the h x w patches last, row by row.

    Args:
        tokens: (B, T, D) after the last block, without the final norm.
        grid: (h, w) of the patches.
        attention: of each layer (B, heads, T, T), after the softmax; rows sum to 1.
        branches: of each layer (B, T, D), the output of the attention, before it is added to the tokens.
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

    Position embeddings are resized bicubically to the grid of the image; pixels beyond the last whole patch are left
    out. The final norm is kept, so that weights fit, but neither applied nor trained.

    Args:
        vit: made by `create_vit`; its parts are used, not copied.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
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
            image: (B, 3, H, W).
            prefix: (P, D) tokens that go before the patches, with their position embeddings.

        Raises:
            ConfigError: the image is smaller than a patch.
        """
        if min(image.shape[-2:]) < self.patch_size:
            raise ConfigError(
                f"expected an image of at least one patch of {self.patch_size}x{self.patch_size} pixels, "
                f"found {image.shape[-2]}x{image.shape[-1]} (height x width)"
            )
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
        name: of the timm model.
        weights: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a .safetensors file;
            position embeddings of another grid and patch filters of another size are resized.
        drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in the first.
        arguments: passed on to `timm.create_model`, such as `{"patch_size": 8, "depth": 6}`.

    Raises:
        ConfigError: the model is unknown, is no plain vision transformer with square patches, or refuses an argument.
        ModelFileError: the weights file is missing, damaged or of another network.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        hint = nearest_hint(str(name), timm.list_models("*vit*") + timm.list_models("deit*"))
        raise ConfigError(f"unknown backbone '{name}': expected a vision transformer of timm.{hint}")
    for argument in arguments:
        if argument in _REFUSED_ARGUMENTS:
            raise ConfigError(
                f"backbone_arguments cannot set '{argument}': the network sets it itself, or it would have no effect"
            )
    try:
        vit = timm.create_model(name, pretrained=weights == "hub", num_classes=0, drop_path_rate=drop_path, **arguments)
    except OSError as error:
        raise no_download(name, error) from error
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(f"backbone '{name}' cannot be made with arguments {dict(arguments)}: {error}") from error
    _check_plain(name, vit)
    if weights not in ("none", "hub"):
        load_backbone_weights(vit, Path(weights), adapt=lambda tensors: checkpoint_filter_fn(tensors, vit))
    return vit


def _attend(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output (B, T, D) of timm's attention, and the probabilities (B, heads, T, T), which timm discards."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q) * attention.scale, attention.k_norm(k)
    probabilities = _softmax((q @ k.transpose(-2, -1)).float())
    mixed = (attention.attn_drop(probabilities) @ v).transpose(1, 2).flatten(2)
    if hasattr(attention, "norm"):  # older timm has none
        mixed = attention.norm(mixed)
    return attention.proj_drop(attention.proj(mixed)), probabilities


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; where no gradient is asked for, in the memory of `scores`, which are large."""
    if torch.is_grad_enabled():
        return scores.softmax(dim=-1)
    scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))


def _check_plain(name: str, vit: Any) -> None:
    """Refuse whatever `TokenTransformer` would compute otherwise than timm does."""
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
