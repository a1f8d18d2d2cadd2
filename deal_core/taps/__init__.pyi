# The names that users may rely on; each is imported when it is first used.
from .carry import View, carry_mask
from .grow import Thing, grow_things
from .masks import TapMask, TapMasks

__all__ = [
    "TapMask",
    "TapMasks",
    "Thing",
    "View",
    "carry_mask",
    "grow_things",
]
