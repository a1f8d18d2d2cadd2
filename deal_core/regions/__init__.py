"""Region evidence: proposals from depth, frozen features, and names learnt from tags by multiple instances."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
