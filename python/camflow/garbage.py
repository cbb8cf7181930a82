"""How often Python looks for garbage, in a process that is camflow's own."""

from __future__ import annotations

import atexit
import gc

# Objects that have come before Python looks at the youngest: 700 is usual.
THRESHOLD = 50_000


def collect_seldom() -> None:
    """Has this process look for garbage seldom, and not when it ends; to be called before libraries are imported.

    PyTorch and what stands on it make a million objects that stay. Looking at them over and over while they come, and once more at
    the end, takes half of the time that importing them takes. What is in no circle is freed as always.
    """
    gc.set_threshold(THRESHOLD, 10, 10)
    # Of all that is called at the end the last, as it is the first to be registered.
    atexit.register(gc.freeze)
