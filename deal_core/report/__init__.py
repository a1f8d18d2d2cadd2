"""Report page that compares runs, its charts, and the stream for the rerun viewer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
