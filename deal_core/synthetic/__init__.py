"""Synthetic tabletops and rooms: scenes, ray casting, stereo depth noise, and the recording made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
