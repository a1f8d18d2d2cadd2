"""The names of benchmarks; importing them loads nothing else."""

from typing import Literal

BenchmarkName = Literal["voc", "coco", "hope", "synthetic"]
