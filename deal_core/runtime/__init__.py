"""Run time on a robot: the segmenter, its back ends, export, and objects and points from its masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
