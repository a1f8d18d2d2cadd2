"""From class scores to pseudo masks: scores are moved to where the colours, or the depth, of the image change."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
