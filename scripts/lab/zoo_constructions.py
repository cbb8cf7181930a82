"""FiftyOne's zoo: exports every entry whose network can be built without a download, with random weights.

    zoo_constructions.py --camflow BINARY [--results FILE] [--only NAME ...] [--timeout SECONDS]

Each is exported by its name (`camflow export fiftyone:NAME --weights none`), read by camflow and explained for one image at its default
layer. The results file has a line for each, so that a run that was stopped goes on where it was. The last line is
`N passed, N failed`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from camflow.export.loaders import zoo, zoo_kinds

EXPORT = ("--weights", "none", "--", "--warm-batchnorm", "2")


def buildable() -> list[str]:
    """Names of the entries that are taken and whose network is torchvision's: the others' weights or settings are downloaded."""
    return [
        name
        for name, entry in zoo.manifest().items()
        if not zoo_kinds.refusal(entry)
        and str(entry["default_deployment_config_dict"]["config"].get("entrypoint_fcn")).startswith("torchvision.")
    ]


def tried(binary: Path, name: str, timeout: float, *more: str) -> dict[str, Any]:
    """What came of an entry, with `more` for its export: a line of the results file."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        levels = (np.random.default_rng(0).random((30, 40, 3)) * 255).astype(np.uint8)
        Image.fromarray(levels).resize((160, 120)).save(folder / "picture.jpg")
        archive = folder / "model.pt2"
        explain = ("explain", folder / "picture.jpg", "--model", archive, "--out", folder / "maps", "--device", "cpu")
        python = ("--python", sys.executable)
        for command in (("export", f"fiftyone:{name}", "--out", archive, *python, *EXPORT, *more), explain):
            try:
                done = subprocess.run((binary, *command), check=False, capture_output=True, text=True, timeout=timeout)
            except subprocess.TimeoutExpired:
                return {"model": name, "outcome": "timeout", "reason": f"`camflow {command[0]}` took more than {timeout:.0f} s"}
            # a network with random weights may see the background alone
            if done.returncode and "the model predicts none" not in done.stdout + done.stderr:
                return {"model": name, "outcome": command[0], "reason": " / ".join(done.stderr.splitlines()[-3:])[:400]}
    return {"model": name, "outcome": "ok", "reason": ""}


def main() -> int:
    """Tries the entries that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    args = parser.parse_args()
    wanted = buildable()
    if unknown := set(args.only) - set(wanted):
        parser.error(f"not in the zoo, or not built without a download: {', '.join(sorted(unknown))}")
    known = args.results.read_text().splitlines() if args.results and args.results.exists() else []
    by_name = {row["model"]: row for row in map(json.loads, known)}
    rows = []
    for name in args.only or wanted:
        if name not in by_name:
            by_name[name] = tried(args.camflow, name, args.timeout)
            if args.results:
                with args.results.open("a") as file:
                    file.write(json.dumps(by_name[name]) + "\n")
        rows.append(by_name[name])
        print(f"{rows[-1]['outcome']:8} {name} {rows[-1]['reason']}", flush=True)
    failed = sum(row["outcome"] != "ok" for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
