"""Many views of one place: class scores fused through depth and the poses of the camera."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
