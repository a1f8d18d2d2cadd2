"""Estimate the depth of single images with Depth Anything V2 (Yang et al. 2024) through transformers.

It serves images without a depth camera, as in VOC and COCO. The network gives relative inverse depth of unknown scale
and offset, larger is nearer; its metric variants give metres.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from deal_core.dataset.choices import DepthPrecision
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.depth_maps import DepthMapsWriter
from deal_core.devices import resolve_device
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.files import owning
from deal_core.structures import DepthKind, Float32Array, UInt8Array

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The errors of transformers for a model that is missing, damaged, or of another kind.
_REFUSALS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


class DepthEstimator:
    """A depth network ready to estimate.

    Attributes:
        kind: kind of the estimated depth: "inverse", or "metric" for a metric checkpoint.
        description: name, hash of weights and preprocessing, and precision, which determine the estimates.

    Example:
        >>> estimator = DepthEstimator.load("depth-anything/Depth-Anything-V2-Base-hf")  # doctest: +SKIP
        >>> (inverse_depth,) = estimator.estimate([rgb])  # doctest: +SKIP
    """

    def __init__(
        self, network: Any, processor: Any, name: str, device: str = "cpu", precision: DepthPrecision = "float32"
    ) -> None:
        self.kind: DepthKind = "metric" if network.config.depth_estimation_type == "metric" else "inverse"
        self.description = f"{name} {_fingerprint(network, processor)} {precision}"
        self._network = network.eval().requires_grad_(False).to(device)
        self._processor, self._device, self._precision = processor, device, precision

    @classmethod
    def load(cls, model: str, device: str = "auto", precision: DepthPrecision = "float32") -> DepthEstimator:
        """Load a model onto a device.

        Args:
            model: a folder with config.json, model.safetensors and preprocessor_config.json, or a name on the Hugging
                Face hub, which is downloaded once.
            device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:1", ...
            precision: floating-point precision of the network.

        Raises:
            ModelFileError: the model is neither here nor on the hub, or is not a complete Depth Anything model.
            UsageError: transformers is not installed, or the device does not exist.
        """
        if precision not in _DTYPES:
            raise UsageError(f"unknown precision '{precision}': expected {', '.join(_DTYPES)}")
        chosen = resolve_device(device)
        folder = Path(model)
        network, processor = _from_folder(folder) if folder.exists() else _from_hub(model)
        return cls(network, processor, folder.resolve().name if folder.exists() else model, chosen, precision)

    def estimate(self, images: Sequence[UInt8Array]) -> list[Float32Array]:
        """Return the depth (H, W) float32 of each image (H, W, 3) uint8 RGB, at its own size.

        Images are resized and normalised as the model's preprocessor_config.json says; images of equal size then form a
        batch.

        Raises:
            UsageError: the network overflows at this precision.
        """
        pixels = self._processor(images=list(images), input_data_format="channels_last", device=self._device)
        tensors: list[Tensor] = list(pixels["pixel_values"])
        alike: dict[torch.Size, list[int]] = {}
        for index, tensor in enumerate(tensors):
            alike.setdefault(tensor.shape, []).append(index)
        depths: dict[int, Float32Array] = {}
        for indices in alike.values():
            estimated = self._run(torch.stack([tensors[index] for index in indices]))
            for index, depth in zip(indices, estimated, strict=True):
                size = images[index].shape[:2]
                full = F.interpolate(depth[None, None], size, mode="bicubic", align_corners=False)[0, 0]
                depths[index] = full.cpu().numpy()
        return [depths[index] for index in range(len(images))]

    @torch.inference_mode()
    def _run(self, batch: Tensor) -> Tensor:
        """Return the depth (B, h, w) float32 of preprocessed images (B, 3, h, w)."""
        dtype = _DTYPES[self._precision]
        with torch.autocast(torch.device(self._device).type, dtype=dtype, enabled=dtype != torch.float32):
            depth: Tensor = self._network(pixel_values=batch).predicted_depth.float()
        if not bool(torch.isfinite(depth).all()):
            raise UsageError(f"the depth network overflows at {self._precision}: choose another precision")
        return depth


def write_depth_maps(
    estimator: DepthEstimator, dataset: Dataset, out: Path | str, batch_size: int = 8
) -> Iterator[bool]:
    """Write a depth map for each frame; yield for each frame whether it was estimated now.

    Existing maps are kept, so an interrupted run continues. At most `batch_size` images are in memory at a time.

    Args:
        estimator: estimates the depth.
        dataset: dataset of the images; its own depth is ignored.
        out: folder in the format of `deal_core.dataset.depth_maps`, new or begun by the same estimator.
        batch_size: number of images to estimate together, if they have equal sizes.

    Raises:
        DatasetError: an image is missing or damaged, or the folder is not writable or contains maps of another model or
            precision.
        InUseError: another process writes the folder.
        UsageError: the batch size is below 1, the network overflows, or the folder lies among the recordings.
    """
    if batch_size < 1:
        raise UsageError(f"expected a batch size of at least 1, found {batch_size}")
    dataset.refuse_output(Path(out))
    with owning(Path(out), DatasetError):
        writer = DepthMapsWriter(out, estimator.kind, estimator.description)
        missing = [frame for frame in dataset.frames if not writer.maps.has(frame.key)]
        for _ in range(len(dataset) - len(missing)):
            yield False
        for start in range(0, len(missing), batch_size):
            frames = missing[start : start + batch_size]
            depths = estimator.estimate([dataset.load_image(frame) for frame in frames])
            for frame, depth in zip(frames, depths, strict=True):
                writer.write(frame.key, depth)
                yield True


def _from_folder(folder: Path) -> tuple[Any, Any]:
    try:
        return _load(str(folder), local_files_only=True)
    except _REFUSALS as error:
        raise ModelFileError(
            f"{folder} is not a depth model: expected a folder with config.json, model.safetensors and "
            f"preprocessor_config.json of Depth Anything V2 in the layout of transformers ({_first_line(error)})"
        ) from error


def _from_hub(name: str) -> tuple[Any, Any]:
    try:
        # A model that was downloaded before needs no connection.
        return _load(name, local_files_only=True)
    except _REFUSALS:
        pass
    try:
        return _load(name, local_files_only=False)
    except _REFUSALS as error:
        raise ModelFileError(
            f"the depth model '{name}' is neither a folder here nor available from the Hugging Face hub: check the "
            f"name and the connection, or copy the model's folder here and give its path ({_first_line(error)})"
        ) from error


def _load(source: str, *, local_files_only: bool) -> tuple[Any, Any]:
    """Return the network and its preprocessor."""
    try:
        import transformers
    except ImportError:
        raise UsageError("estimating depth needs transformers: pip install 'deal_ros[depth]'") from None
    network, report = transformers.AutoModelForDepthEstimation.from_pretrained(  # the user's choice  # nosec B615
        source,
        local_files_only=local_files_only,
        output_loading_info=True,
        dtype=torch.float32,
        use_safetensors=True,  # other formats run code
    )
    if report["missing_keys"]:
        # transformers would fill them with random numbers.
        raise ValueError(f"the weights lack {len(report['missing_keys'])} tensors, as {min(report['missing_keys'])}")
    if not hasattr(network.config, "depth_estimation_type"):
        raise ValueError(f"found a {type(network).__name__}, expected a DepthAnythingForDepthEstimation")
    processor = transformers.AutoImageProcessor.from_pretrained(  # JSON  # nosec B615
        source, local_files_only=local_files_only
    )
    return network, processor


def _fingerprint(network: Any, processor: Any) -> str:
    """Return a short hash of weights, settings and preprocessing, which does not depend on the model's path."""
    config = network.config
    head = f"{config.depth_estimation_type} {config.max_depth} {processor.to_json_string()}"
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
