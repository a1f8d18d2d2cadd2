"""Label-free figures of tags, trainings and pseudo masks, and a verdict: it says when the result is bad."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
