"""What `rates.py` and `fidelity.py` share: the job, the device, and how work on it is timed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

JOB = json.loads(Path(sys.argv[2]).read_text())
ROOT = Path(JOB["root"])
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "scripts" / "lab")]
DEVICE = JOB["device"]
CUDA = DEVICE != "cpu"


def tf32(allow: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def timed(work, repeats: int, warm: int = 2) -> float:
    """Seconds of one go, the middle one of `repeats`."""
    for _ in range(warm):
        work()
    took = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        took.append(time.perf_counter() - start)
    return sorted(took)[len(took) // 2]
