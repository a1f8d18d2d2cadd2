"""Run the segmentation node under strace: `python -m traced`; the file $TRACED_CALLS gets its calls.

The process of the node stays the one that was started, so that its owner can stop it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    trace = ["strace", "-D", "-f", "-qq", "-e", "trace=%network,open,openat", "-o", os.environ["TRACED_CALLS"]]
    os.execvp("strace", [*trace, sys.executable, "-m", "deal_ros.segmentation.main", *sys.argv[1:]])
