"""What each Python that tests start does first: it looks for garbage seldom, and not when it ends.

Most load PyTorch or FiftyOne, whose million objects stay: looking at them while they come and at the end takes half of the time.
What is in no circle is freed as always. In the place of the system's `sitecustomize`, as `PYTHONPATH` has it (`conftest.py`).
"""

import atexit
import gc

gc.set_threshold(50_000, 10, 10)
atexit.register(gc.freeze)
