"""The dataset folder and other layouts (VOC, COCO, BOP): read, written, checked and turned into tensors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
