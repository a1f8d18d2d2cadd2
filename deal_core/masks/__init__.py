"""From class scores to masks: scores of a dataset, ways to decide, threshold rules, refinement, mask folders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
