"""The figures of the paper: mIoU of the CAMs in %, mean over seeds 11, 42, 55 and 128 (arXiv 2509.17702 v2)."""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHED_SEEDS = (11, 42, 55, 128)


@dataclass(frozen=True)
class PublishedFigures:
    """mIoU in % of one row of the paper, its threshold swept on the masks that it is measured on."""

    train: float
    val: float

    def on(self, part: str) -> float | None:
        """Return the figure of a part: `train` or `val`; None for any other."""
        return {"train": self.train, "val": self.val}.get(part)


_FIGURES = {
    ("voc", "weaktr", "baseline"): (63.461, 60.635),
    ("voc", "weaktr", "deal"): (64.792, 61.908),
    ("voc", "weaktr", "isl-fsl"): (66.545, 63.818),
    ("voc", "weaktr", "deal+isl-fsl"): (66.876, 64.671),
    ("voc", "seam", "baseline"): (57.556, 54.045),
    ("voc", "seam", "deal"): (58.380, 55.198),
    ("voc", "seam", "isl-fsl"): (61.615, 58.296),
    ("voc", "seam", "deal+isl-fsl"): (62.579, 59.391),
    ("coco", "weaktr", "baseline"): (40.331, 39.701),
    ("coco", "weaktr", "deal"): (40.805, 40.312),
    ("coco", "weaktr", "isl-fsl"): (41.719, 41.258),
    ("coco", "weaktr", "deal+isl-fsl"): (41.583, 41.186),
    ("hope", "weaktr", "baseline"): (40.104, 18.909),
    ("hope", "weaktr", "deal"): (51.306, 33.715),
    ("hope", "weaktr", "deal-estimated"): (50.145, 32.066),
}


def published_figures(benchmark: str, model: str, variant: str) -> PublishedFigures | None:
    """Return the paper's row, or None where it has none.

    Args:
        benchmark: voc, coco, hope.
        model: weaktr, seam.
        variant: baseline, deal, isl-fsl, deal+isl-fsl; on hope, deal is with the RealSense's depth and
            deal-estimated with that of Depth Anything V2 base.
    """
    figures = _FIGURES.get((benchmark, model, variant))
    return PublishedFigures(*figures) if figures else None
