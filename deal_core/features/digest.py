"""Names of kept features: they follow from weights, sizes and pixels, so that nothing stale is ever read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn


def weights_digest(module: nn.Module) -> str:
    """Return a digest of the weights of a module, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def folder_name(*parts: object) -> str:
    """Return a name that follows from the parts, which are JSON values or have a text form."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]


def pixels_name(key: str, *arrays: npt.NDArray[Any]) -> str:
    """Return the name of what is kept of a frame: its key, and a digest of its pixels."""
    pixels = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    return f"{key}.{pixels.hexdigest()[:12]}"
