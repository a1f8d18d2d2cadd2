"""Masks at run time: load a model file once, segment image after image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.cams import cam_scores
from deal_core.data.sample import BACKGROUND, ClassList, Float32Array, UInt8Array
from deal_core.errors import UsageError
from deal_core.modelfile import ModelInfo, load_model

Precision = Literal["auto", "float32", "float16", "bfloat16"]
_DEVICE_TYPES = ("cpu", "cuda", "mps")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer for one image.

    Args:
        mask: (H, W) uint8 class ids at the input's size; 0 background, 255 unlabelled.
        confidence: (H, W) float32 in [0, 1], the score of the chosen id.
    """

    mask: UInt8Array
    confidence: Float32Array


class Segmenter:
    """A model ready to segment.

    >>> segmenter = Segmenter.load("model.safetensors")          # doctest: +SKIP
    >>> result = segmenter.segment(rgb)                          # doctest: +SKIP
    >>> result.mask.shape == rgb.shape[:2]                       # doctest: +SKIP
    True
    """

    def __init__(self, network: nn.Module, info: ModelInfo, model_hash: str, device: str, precision: str) -> None:
        self.info, self.model_hash, self.device, self.precision = info, model_hash, device, precision
        # Convolutions over images stored channels last are faster, on the CPU as on tensor cores.
        network = network.eval().requires_grad_(False).to(device)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: Precision = "auto") -> Segmenter:
        """Load a model file onto a device.

        Args:
            path: the .safetensors file.
            device: "auto" (the GPU where there is one), "cpu", "cuda", "cuda:1", ...
            precision: "auto" is float16 on a GPU and float32 on the CPU.

        Raises:
            ModelFileError: the file cannot be used.
            UsageError: the device does not exist here, or the precision is unknown.
        """
        chosen = resolve_device(device)
        chosen_precision = _resolve_precision(precision, chosen)
        model = load_model(Path(path))
        return cls(model.network, model.info, model.sha256, chosen, chosen_precision)

    @property
    def classes(self) -> ClassList:
        """The foreground classes; id i + 1 in masks is `classes.names[i]`."""
        return self.info.classes

    @property
    def uses_depth(self) -> bool:
        """Whether `segment` makes use of depth."""
        return False

    def warm_up(self, height: int, width: int, iterations: int = 3) -> None:
        """Segment black images of this size, so that the first real one is not slowed by lazy initialisation."""
        for _ in range(iterations):
            self.segment(np.zeros((height, width, 3), np.uint8))

    def segment(self, rgb: UInt8Array, depth: Float32Array | None = None) -> Segmentation:
        """Segment one image.

        Args:
            rgb: (H, W, 3) uint8.
            depth: (H, W) float32 metres, 0 or nan where unknown; used by networks that take depth.

        Raises:
            ValueError: an array of another shape or type.
        """
        _check_input(rgb, depth)
        with torch.inference_mode():
            scores = self._scores(torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device))
            top, index = scores.max(dim=0)
            background = top <= self.info.threshold.value
            mask = torch.where(background, BACKGROUND, index + 1).to(torch.uint8)
            confidence = torch.where(background, 1.0 - top, top)
            return Segmentation(mask.cpu().numpy(), confidence.float().cpu().numpy())

    def _scores(self, rgb: Tensor) -> Tensor:
        """Return (K, H, W) class scores in [0, 1] of (H, W, 3) uint8."""
        image = rgb.permute(2, 0, 1)[None].float() / 255.0
        image = F.interpolate(image, self.info.input_size, mode="bilinear", align_corners=False, antialias=True)
        dtype = _DTYPES[self.precision]
        with torch.autocast(torch.device(self.device).type, dtype=dtype, enabled=dtype is not torch.float32):
            output = self._network(image)
        return cam_scores(output, size=(rgb.shape[0], rgb.shape[1]))[0]


def resolve_device(device: str) -> str:
    """Return the device to use; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type not in _DEVICE_TYPES:
            raise RuntimeError(f"not one of {', '.join(_DEVICE_TYPES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device '{device}' cannot be used here ({reason}); expected auto, cpu, cuda or cuda:N"
        ) from None
    return device


def _resolve_precision(precision: str, device: str) -> str:
    if precision == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if precision not in _DTYPES:
        raise UsageError(f"unknown precision '{precision}': expected auto, {', '.join(_DTYPES)}")
    return precision


def _check_input(rgb: UInt8Array, depth: Float32Array | None) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"expected rgb as uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if depth is not None and (depth.shape != rgb.shape[:2] or depth.dtype != np.float32):
        raise ValueError(
            f"expected depth as float32 of the image's size {rgb.shape[:2]}, got {depth.dtype} {depth.shape}"
        )
