"""ResNet38-d: the wide residual network of SEAM and related methods."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.models.normalisation import freeze_batch_norm


class ResNet38(nn.Module):
    """Wide ResNet-38 (Wu, Shen, van den Hengel 2016) at output stride 8, as SEAM (Wang et al. 2020) uses it.

    It has pre-activation blocks, and dilations of 2 and 4 instead of strides in the last two stages. For fine-tuning,
    the first convolution, the stage `b2` and every BatchNorm are frozen.
    """

    channels = (512, 1024, 4096)
    """Channels of the three feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.b2 = _stage(3, 64, 128, 128, stride=2)
        self.b3 = _stage(3, 128, 256, 256, stride=2)
        self.b4 = _stage(6, 256, 512, 512, stride=2)
        self.b5 = _stage(3, 512, 512, 1024, first_dilation=1, dilation=2)
        self.b6 = _Bottleneck(1024, 2048, dilation=4, dropout=0.3)
        self.b7 = _Bottleneck(2048, 4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(4096)
        self.conv1a.requires_grad_(False)
        self.b2.requires_grad_(False)
        self.train(self.training)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return non-negative feature maps (B, 512, h, w), (B, 1024, h, w) and (B, 4096, h, w) at stride 8.

        They are the activated inputs of `b5` and `b6` ("conv4", "conv5") and the activated output of `b7` ("conv6").

        Args:
            image: (B, 3, H, W) normalised image; h = ceil(H / 8), w = ceil(W / 8).
        """
        x = self.b4(self.b3(self.b2(self.conv1a(image))))
        first, *others = self.b5
        assert isinstance(first, _BasicBlock)
        conv4 = _activate(first.bn1, x)
        x = first(x, conv4)
        for block in others:
            x = block(x)
        conv5 = _activate(self.b6.bn1, x)
        conv6 = _activate(self.bn7, self.b7(self.b6(x, conv5)))
        return [conv4, conv5, conv6]

    def train(self, mode: bool = True) -> ResNet38:
        """Switch dropout between training and evaluation; BatchNorm stays in evaluation."""
        super().train(mode)
        freeze_batch_norm(self)
        return self


class _BasicBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions; a shortcut with a convolution starts at the activated input."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, stride: int, first_dilation: int, dilation: int
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, width, stride=stride, dilation=first_dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, out_channels, dilation=dilation)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        activated = _activate(self.bn1, x) if activated is None else activated
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(_activate(self.bn2, self.conv1(activated)))


class _Bottleneck(nn.Module):
    """Pre-activation block of a 1x1, a dilated 3x3 and a 1x1 convolution, with dropout before the last two."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels // 4, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels // 4)
        self.conv2 = _conv3x3(out_channels // 4, out_channels // 2, dilation=dilation)
        self.bn3 = nn.BatchNorm2d(out_channels // 2)
        self.conv3 = nn.Conv2d(out_channels // 2, out_channels, 1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        activated = _activate(self.bn1, x) if activated is None else activated
        branch = self.dropout(_activate(self.bn2, self.conv1(activated)))
        branch = self.dropout(_activate(self.bn3, self.conv2(branch)))
        return self.shortcut(activated) + self.conv3(branch)


def _stage(
    blocks: int,
    in_channels: int,
    width: int,
    out_channels: int,
    *,
    stride: int = 1,
    first_dilation: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    options = {"stride": stride, "first_dilation": first_dilation, "dilation": dilation}
    rest = {**options, "stride": 1, "first_dilation": dilation}
    return nn.Sequential(
        _BasicBlock(in_channels, width, out_channels, **options),
        *(_BasicBlock(out_channels, width, out_channels, **rest) for _ in range(blocks - 1)),
    )


def _conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _activate(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.relu(norm(x), inplace=True)
