"""Segmentation at run time: load a model file once, then segment image by image."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np

from deal_core.dataset.network_input import depth_to_input, image_to_input, resize_image
from deal_core.devices import check_device
from deal_core.errors import ModelFileError, UsageError
from deal_core.masks.decide import decide
from deal_core.masks.fast_mask import decide_mask
from deal_core.runtime.backends.choice import BackendName as BackendName
from deal_core.runtime.backends.choice import Precision as Precision
from deal_core.runtime.backends.choice import Wanted
from deal_core.runtime.open_backend import Opened, open_backend
from deal_core.structures import ClassList, Float32Array, UInt8Array


class Segmentation:
    """The segmentation of one image.

    Args:
        mask: (H, W) uint8 class ids at the size of the image; 0 is background, 255 unlabelled.
        confidence: (H, W) float32 score of the id, in [0, 1]; or a function that computes it when it is first read.
        forward_ms: Time of the network without pre- and postprocessing, in milliseconds.
    """

    def __init__(
        self, mask: UInt8Array, confidence: Float32Array | Callable[[], Float32Array], forward_ms: float = 0.0
    ) -> None:
        self.mask, self.forward_ms = mask, forward_ms
        self._confidence = confidence

    @cached_property
    def confidence(self) -> Float32Array:
        """(H, W) float32 score of the id, in [0, 1]; for background, 1 - the highest score of a class."""
        return self._confidence() if callable(self._confidence) else self._confidence


class Segmenter:
    """A model that segments images.

    Args:
        opened: Model on a back end; `load` opens a file.

    >>> segmenter = Segmenter.load("model.safetensors")          # doctest: +SKIP
    >>> result = segmenter.segment(rgb)                          # doctest: +SKIP
    >>> result.mask.shape == rgb.shape[:2]                       # doctest: +SKIP
    True
    """

    def __init__(self, opened: Opened) -> None:
        self.info, self.model_hash, self.input_size = opened.info, opened.model_sha256, opened.input_size
        self._backend = opened.backend
        self.device, self.precision = opened.backend.device, opened.backend.precision
        self.backend, self.backend_reason = opened.backend.name, opened.reason

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        backend: BackendName = "auto",
        engine_cache_dir: str | Path = "",
        input_size: int = 0,
        compile: bool = False,
    ) -> Segmenter:
        """Load a model file onto a device.

        The cache folder keeps the conversions of a .safetensors file: an ONNX model, which takes seconds, and a
        TensorRT engine, which takes minutes.

        Args:
            path: A .safetensors file, or an .onnx file by `deal export`.
            device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
            precision: Precision; "auto" is float16 on a GPU and float32 on the CPU.
            backend: "torch", "onnxruntime", "tensorrt", or "auto" for the fastest available one; `backend_reason` holds
                the reason for the choice.
            engine_cache_dir: Cache folder; default: the cache folder of the user.
            input_size: Shorter side of the network input in pixels; 0 for the size of the model.
            compile: Whether PyTorch compiles the network, which takes a minute at each start.

        Raises:
            ModelFileError: the file cannot be used.
            UsageError: the device does not exist, or an option is unknown or contradicts another.
            BackendError: the requested back end cannot run the model.
        """
        if precision not in get_args(Precision):
            raise UsageError(f"unknown precision '{precision}': expected {', '.join(get_args(Precision))}")
        check_device(device)
        path = Path(path)
        wanted = Wanted(
            backend=backend,
            device=device,
            precision=precision,
            is_onnx=path.suffix == ".onnx",
            compile=compile,
        )
        cache_dir = Path(engine_cache_dir).expanduser() if str(engine_cache_dir) else None
        return cls(open_backend(path, wanted, cache_dir, input_size))

    @property
    def classes(self) -> ClassList:
        """The foreground classes; id i + 1 in masks is `classes.names[i]`."""
        return self.info.classes

    @property
    def uses_depth(self) -> bool:
        """Whether `segment` uses depth."""
        return self.info.uses_depth

    def warm_up(self, height: int, width: int, iterations: int = 3) -> None:
        """Segment black images of this size, so that lazy initialisation does not slow the first real image."""
        for _ in range(iterations):
            self.segment(np.zeros((height, width, 3), np.uint8))

    def segment(
        self,
        rgb: UInt8Array,
        depth: Float32Array | None = None,
        *,
        refine: Callable[[Float32Array], Float32Array] | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            rgb: (H, W, 3) uint8.
            depth: (H, W) float32 metres, 0 or nan where unknown, for networks with depth, which also work without it.
            refine: Function from the class scores (K, h, w) of the network to better ones, such as a `TemporalFilter`.

        Raises:
            ValueError: an array has another shape or type.
            ModelFileError: the scores of the network are not finite.
        """
        _check_input(rgb, depth)
        image = image_to_input(resize_image(rgb, self.input_size))[None]
        seen_depth = depth_to_input(depth, self.input_size)[None] if self.uses_depth else None
        begun = time.perf_counter()
        scores = self._backend(image, seen_depth)
        forward_ms = (time.perf_counter() - begun) * 1000
        if not np.isfinite(scores).all():
            raise ModelFileError(
                f"the class scores of the network are not finite in {self.precision}: use the precision float32, or "
                "train again with a lower learning rate"
            )
        if refine is not None:
            scores = refine(scores)
        size, threshold, relative = rgb.shape[:2], self.info.threshold.value, not self.info.is_segmenter
        mask = decide_mask(scores, size, threshold, relative=relative)
        # Most masks are used without their confidence, which takes longer than the mask.
        return Segmentation(mask, lambda: decide(scores, size, threshold, relative=relative)[1], forward_ms)


def _check_input(rgb: UInt8Array, depth: Float32Array | None) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
        raise ValueError(f"expected rgb as uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    if depth is not None and (depth.shape != rgb.shape[:2] or depth.dtype != np.float32):
        raise ValueError(
            f"expected depth as float32 of the image's size {rgb.shape[:2]}, got {depth.dtype} {depth.shape}"
        )
