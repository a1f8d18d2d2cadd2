"""What runs on a robot: the segmenter, its back ends, export, and what is made of its masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
