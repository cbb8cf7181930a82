"""camflow on a GPU, step by step: see README.md beside this file. Started by check.sh, which sets the environment.

Each step has a time limit of its own and writes what it found to OUT/results.json before the next one begins.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from machine import (
    CLASSIFIER,
    CUDA,
    DEVICE,
    EXPORTS,
    MONGOD,
    OUT,
    RESULTS,
    ROOT,
    SEGMENTATION,
    TINY,
    TMPFS,
    TRAINED,
    VIT,
    WATCH,
    WORK,
    Late,
    Mongod,
    Watch,
    left,
    save,
    say,
)
from numbers_and_memory import compiled, faithfulness, fidelity, memory, methods, sanity
from speed import contenders, device, end_to_end, rates, ratios, trace

# By importance. Each with the most seconds it may take.
STEPS = {
    "sanity": (sanity, 120),
    "rates": (rates, 100),
    "device": (device, 170),
    "end_to_end": (end_to_end, 150),
    "contenders": (contenders, 230),
    "ratios": (ratios, 5),
    "fidelity": (fidelity, 190),
    "trace": (trace, 70),
    "memory": (memory, 110),
    "methods": (methods, 110),
    "faithfulness": (faithfulness, 70),
    "compiled": (compiled, 130),
}


def limited(work, seconds: float):
    def late(_signal, _frame):
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(seconds)))
    try:
        return work()
    finally:
        signal.alarm(0)


def complaints(found: object, at: str) -> list[str]:
    """Where a step, or a part of one, was not done, or not passed."""
    if not isinstance(found, dict):
        return []
    own = [f"{at}: {found[key]}" for key in ("error", "cut_off_after_s", "skipped") if key in found]
    own += [f"{at}: not passed"] if found.get("passed") is False else []
    return own + [line for key, part in found.items() for line in complaints(part, f"{at}, {key}")]


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    (WORK / "logs").mkdir(exist_ok=True)
    chosen = os.environ.get("STEPS", "").split() or list(STEPS)
    RESULTS.update(
        device=DEVICE,
        tiny=TINY,
        steps_asked=chosen,
        cores=os.cpu_count(),
        commit=(WORK / "commit").read_text().strip() if (WORK / "commit").exists() else None,
    )
    save()
    # What an earlier call found: on this machine, or carried along.
    earlier = WORK / "results.json"
    for path in (ROOT / ".gpu" / "carry" / "results.json", earlier):
        if path.exists():
            RESULTS["steps"] |= json.loads(path.read_text())["steps"]
    MONGOD.append(Mongod())
    WATCH.append(Watch())
    if CUDA:
        for model in dict.fromkeys((SEGMENTATION, TRAINED, CLASSIFIER, VIT)):
            EXPORTS.start(model)
    try:
        for name in chosen:
            work, seconds = STEPS[name]
            seconds = seconds if CUDA else 3600
            if left() < 8:
                RESULTS["steps"].setdefault(name, {"skipped": "no time was left"})
                continue
            say(f"== {name} (at most {min(seconds, left()):.0f} s)")
            begun = time.monotonic()
            try:
                RESULTS["steps"][name] = {
                    **(limited(work, min(seconds, left())) or {}),
                    "took_s": round(time.monotonic() - begun, 1),
                }
            except Late:
                RESULTS["steps"].setdefault(name, {})["cut_off_after_s"] = round(time.monotonic() - begun, 1)
                say(f"{name}: cut off")
            except Exception as error:  # noqa: BLE001 - the next step is to run all the same
                RESULTS["steps"].setdefault(name, {})["error"] = f"{type(error).__name__}: {error}"[-1200:]
                say(f"{name}: {type(error).__name__}: {str(error)[-500:]}")
                if name == "sanity" and CUDA and "does not run" in str(error):
                    # Nothing else can tell more; the device time is better kept.
                    RESULTS["fatal"] = name
            save()
            if "fatal" in RESULTS:
                break
    finally:
        RESULTS["finished"] = True
        save()
        shutil.copy(OUT / "results.json", earlier)
        WATCH[0].stop()
        if WATCH[0].samples:
            (OUT / "gpu.csv").write_text("".join(f"{at:.2f},{used},{memory}\n" for at, used, memory in WATCH[0].samples))
        for _, process in EXPORTS.running.values():
            if process and process.poll() is None:
                process.kill()
        MONGOD[0].process.terminate()
        subprocess.run(["tar", "-czf", str(OUT / "logs.tar.gz"), "-C", str(WORK), "logs"], check=False)
        shutil.rmtree(TMPFS / "camflow-gpu-maps", ignore_errors=True)
    undone = [line for name in chosen for line in complaints(RESULTS["steps"].get(name, {"skipped": "never begun"}), name)]
    say(f"steps {len(chosen)}, parts not done {len(undone)}" + "".join(f"\n    {line}" for line in undone))
    return min(1, len(undone))


if __name__ == "__main__":
    sys.exit(main())
