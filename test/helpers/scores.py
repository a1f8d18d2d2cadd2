"""Small masks and scores for properties, and the slow definition of a predicted mask."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

K = 3
IDS = [0, 1, 2, 3, 255]
masks = hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from(IDS))
# Many scores lie exactly on a threshold, in float32 and float64, which is where bins go wrong.
on_grid = st.integers(0, 100).map(lambda i: i / 100)
scores64 = hnp.arrays(np.float64, (K, 4, 5), elements=st.one_of(on_grid, st.floats(0, 1)))
scores = st.one_of(scores64, scores64.map(lambda s: s.astype(np.float32)), scores64.map(lambda s: s.astype(np.float16)))
tags = st.one_of(st.none(), hnp.arrays(np.float32, K, elements=st.sampled_from([0.0, 1.0, np.nan])))


def slow_prediction(values, present, threshold):
    """The definition, pixel by pixel, in the type of the scores: background wins a tie, then the lowest class."""
    _, height, width = values.shape
    bound = float(np.promote_types(values.dtype, np.float32).type(threshold))
    out = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            best, winner = -1.0, 0
            for k in range(K):
                if (present is None or present[k] == 1) and float(values[k, y, x]) > best:
                    best, winner = float(values[k, y, x]), k + 1
            out[y, x] = winner if best > bound else 0
    return out
