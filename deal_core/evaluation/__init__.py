"""Evaluation of masks: metrics, threshold sweeps, result files, and pictures of frames."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
