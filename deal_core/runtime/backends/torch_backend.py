"""Class scores by PyTorch, on any of its devices."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from deal_core.errors import BackendError
from deal_core.masks.class_scores import ScoreNetwork
from deal_core.structures import Float32Array

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchBackend:
    """A network on a device.

    Args:
        network: CAM network or segmenter.
        device: Existing device.
        precision: "auto" (float16 on a GPU, float32 elsewhere), "float32", "float16" or "bfloat16". float32 excludes
            TF32, the default of PyTorch for convolutions on a GPU, which changes masks.
        compile_for: (height, width) of the images for which to compile the network, which takes minutes; None for no
            compilation.

    Raises:
        BackendError: the network cannot be compiled, for example without a C++ compiler.
    """

    name = "torch"

    def __init__(
        self, network: nn.Module, device: str, precision: str, compile_for: tuple[int, int] | None = None
    ) -> None:
        if precision == "auto":
            precision = "float16" if device.startswith("cuda") else "float32"
        self.device, self.precision = device, precision
        scores = ScoreNetwork(network).eval().requires_grad_(False).to(device)
        # Convolutions over images stored channels last are faster, on the CPU as on tensor cores.
        self._network: nn.Module = scores.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile_for is not None:
            self._network = torch.compile(self._network)  # type: ignore[assignment]
            depth = np.zeros((1, 1, *compile_for), np.float32) if getattr(network, "uses_depth", False) else None
            try:
                self(np.zeros((1, 3, *compile_for), np.float32), depth)
            except Exception as error:  # errors of many classes
                reason = str(error).strip().splitlines()[0]
                raise BackendError(f"torch cannot compile the network ({reason}); leave compile out") from error

    def __call__(self, image: Float32Array, depth: Float32Array | None = None) -> Float32Array:
        """Return class scores (K, h, w) in [0, 1], as described in `ScoreBackend`."""
        dtype = DTYPES[self.precision]
        # The default of `enabled` is False, which would turn cuDNN off.
        is_exact = dtype is torch.float32
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=not is_exact):
            images = torch.as_tensor(image).to(self.device, memory_format=torch.channels_last)
            depths = None if depth is None else torch.as_tensor(depth).to(self.device)
            with torch.autocast(torch.device(self.device).type, dtype=dtype, enabled=not is_exact):
                scores, _ = self._network(images, depths)
            return scores[0].cpu().numpy()
