"""The dataset folder and other layouts (VOC, COCO, BOP): read, written, checked and turned into tensors."""
