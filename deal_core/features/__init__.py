"""Feature maps of frozen backbones, kept on disk so that the layers after them train in minutes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
