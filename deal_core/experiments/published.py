"""The results of the paper: mIoU of the CAMs in %, mean over seeds 11, 42, 55 and 128 (arXiv 2509.17702 v2)."""

from __future__ import annotations

PUBLISHED_SEEDS = (11, 42, 55, 128)


_FIGURES: dict[tuple[str, str, str], tuple[float, float]] = {
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


def published_figures(benchmark: str, model: str, variant: str) -> dict[str, float]:
    """Return the mIoU in %, by part (`train`, `val`), of a row of the paper; empty if the paper has no such row.

    The thresholds of the paper are swept on the evaluated masks. On hope, the variant deal uses the depth of the
    RealSense, and deal-estimated the depth of Depth Anything V2 base.
    """
    return dict(zip(("train", "val"), _FIGURES.get((benchmark, model, variant), ()), strict=False))
