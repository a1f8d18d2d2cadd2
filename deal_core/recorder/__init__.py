"""Writes a recording live: pairs, write queue, tag commands, RealSense cameras, the live page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
