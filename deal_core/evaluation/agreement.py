"""Agreement of the masks of several makers, for frames without a true mask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from deal_core.evaluation.metrics import ConfusionMatrix, FrameScore, MaskEvaluator, MaskScore, require_same
from deal_core.structures import UNLABELLED, ClassList, Float64Array, UInt8Array

AGREEMENT = "agreement"
"""Rule of a `MaskScore` that compares with the masks of the other makers instead of the truth."""


class AgreementEvaluator:
    """Pairwise agreement of the masks of R makers, in one streaming pass.

    The comparison of two masks ignores pixels that are undecided (255) in either of them.

    Args:
        num_makers: Number of makers R, at least two.
        num_classes: Number of foreground classes K.

    Attributes:
        frames: For each maker, the mIoU of every image against the masks of the other makers.

    Raises:
        ValueError: there are fewer than two makers.

    Example:
        >>> agreement = AgreementEvaluator(2, 1)
        >>> agreement.update([np.array([[0, 1, 1]]), np.array([[0, 0, 1]])], "kitchen/1")
        >>> agreement.pairs().tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """

    def __init__(self, num_makers: int, num_classes: int) -> None:
        if num_makers < 2:
            raise ValueError(f"expected at least two makers of masks, found {num_makers}")
        self.num_makers = num_makers
        self.num_classes = num_classes
        self.frames: tuple[list[FrameScore], ...] = tuple([] for _ in range(num_makers))
        self._pairs = self._no_counts()

    def update(self, masks: Sequence[UInt8Array], key: str) -> None:
        """Count one image.

        Args:
            masks: R masks (H, W) with ids 0..K or 255.
            key: Key of the frame.

        Raises:
            ValueError: the number of masks is not R, shapes differ, or an id is unknown.
        """
        if len(masks) != self.num_makers:
            raise ValueError(f"expected {self.num_makers} masks, found {len(masks)}")
        of_frame = self._no_counts()
        for (first, second), matrix in of_frame.items():
            if masks[first].shape != masks[second].shape:
                raise ValueError(f"expected masks of one shape, found {masks[first].shape} and {masks[second].shape}")
            undecided = masks[first] == UNLABELLED
            matrix.update(masks[first], np.where(undecided, np.uint8(UNLABELLED), masks[second]))
            self._pairs[first, second].merge(matrix)
        for maker in range(self.num_makers):
            self.frames[maker].append(FrameScore(key, self._against_others(maker, of_frame).miou()))

    def merge(self, other: AgreementEvaluator) -> None:
        """Add the counts of another evaluator of the same makers; frames stay in the order of the merges."""
        require_same((self.num_makers, self.num_classes), (other.num_makers, other.num_classes), "makers and classes")
        for pair, matrix in self._pairs.items():
            matrix.merge(other._pairs[pair])
        for ours, theirs in zip(self.frames, other.frames, strict=True):
            ours.extend(theirs)

    def score(self, maker: int, classes: ClassList) -> MaskScore:
        """Return the score of the masks of one maker against all other makers, without boundary F."""
        evaluator = MaskEvaluator(self.num_classes)
        evaluator.confusion = self._against_others(maker, self._pairs)
        return evaluator.score(classes, rule=AGREEMENT)

    def pairs(self) -> Float64Array:
        """Return (R, R) the mIoU of each pair of makers, with 1 on the diagonal."""
        table = np.eye(self.num_makers)
        for (first, second), matrix in self._pairs.items():
            table[first, second] = table[second, first] = matrix.miou()
        return table

    def _no_counts(self) -> dict[tuple[int, int], ConfusionMatrix]:
        return {pair: ConfusionMatrix(self.num_classes) for pair in combinations(range(self.num_makers), 2)}

    def _against_others(self, maker: int, pairs: dict[tuple[int, int], ConfusionMatrix]) -> ConfusionMatrix:
        """Return the sum over the pairs of one maker, with its own ids as columns."""
        total = ConfusionMatrix(self.num_classes)
        for (first, second), matrix in pairs.items():
            counts = matrix.counts[:, :-1]
            if maker == first:
                total.counts[:, :-1] += counts
            elif maker == second:
                total.counts[:, :-1] += counts.T
        return total
