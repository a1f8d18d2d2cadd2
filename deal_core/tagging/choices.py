"""The file formats of tags; importing them loads nothing else."""

from enum import Enum


class TagFormat(str, Enum):
    """Files that tags are read from and written to."""

    CSV = "csv"
    COCO = "coco"
    VOC = "voc"
    LABELSTUDIO = "labelstudio"
