"""Faults of the tags of a dataset: tags that look wrong, classes that the place gives away, and what to tag next."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
