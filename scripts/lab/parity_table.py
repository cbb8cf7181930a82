"""camflow's heatmaps beside those of every library and paper that has the method: the table of docs/parity.md.

    bash scripts/parity.sh [--peer NAME ...] [--only MODEL ...]

For each model, method and peer: the largest and the mean difference of `camflow explain --exact` to what the peer gives for the same
tensor and the same weights. Beside pytorch_grad_cam 1.5.7 allowed are 1e-5, for methods that project onto a principal component 1e-3
with the sign that camflow documents (the reference's is arbitrary), and for the gradient-free ones 1e-4; where the reference in
fp32 is further than that from itself in fp64, that distance. The default, which folds batch norms, is judged by its distance to the
reference in fp64: at most 1.5 times that of the reference in fp32 in the median over all rows, and 3 times (plus 1e-4) in each, but for
what a last bit decides: fem counts the pixels beyond a threshold, xgradcam divides by sums of activations that may cancel, and in two
networks the input of a ReLU that FullGrad shows is next to 0.

torch-cam 0.5 is given the same noise, where chance plays a part. Captum 0.9 has the methods at the image itself; its attributions of every
channel become a map as the methods' files say. OpenVINO XAI 1.1 explains the network as OpenVINO 2024.4 compiles it. Beside these 1e-4 is
allowed. Where no library has a method, it is written in PyTorch from its paper (`scripts/lab/attention_reference.py`,
`scripts/lab/cam_reference.py`); allowed are 1e-4, or three times what that in fp32 is from itself in fp64: with random weights attention
is nearly the same everywhere. RISE, which no library here has, is compared in `tests/python/test_image_methods.py`.

Weights are random, from a seed, batch norms warmed. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import captum_parity
import openvino_parity
import torchcam_parity
from parity import (
    ATTENTION,
    CASES,
    MORE,
    POOLED,
    SEGMENTING,
    Case,
    Row,
    compare,
    compare_attention,
    compare_written,
    describe,
    exported,
    median_ratio,
)

import torch

PEERS = ("pytorch_grad_cam", "its paper", "torch-cam", "Captum", "OpenVINO XAI")


def compared(binary: Path, models: Path, peers: list[str], only: list[str]) -> Iterator[Row]:
    """The rows of these peers, and of these models or all."""

    def chosen(model: str) -> bool:
        return not only or model in only

    if "pytorch_grad_cam" in peers:
        for case in (*CASES, *MORE, *SEGMENTING):
            if chosen(case.model):
                yield from compare(binary, case, exported(case, models))
    if "its paper" in peers:
        for case in CASES:
            if case.model in POOLED and chosen(case.model):
                yield from compare_written(binary, case, exported(case, models))
        for model in filter(chosen, ATTENTION):
            yield from compare_attention(binary, model, exported(Case(model, (), (224, 224)), models))
    for peer, rows in (
        ("torch-cam", torchcam_parity.rows),
        ("Captum", captum_parity.rows),
        ("OpenVINO XAI", openvino_parity.rows),
    ):
        if peer in peers:
            yield from rows(binary, models, chosen)


def table(rows: list[Row]) -> str:
    lines = [
        "| model | method | beside | smoothing | max | mean | allowed | default from fp64 | fp32 from fp64 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rest = ["", ""] if row.default is None else [f"{row.default:.1e}", f"{row.single:.1e}"]
        mark = "" if row.passed() else " **failed**"
        cells = [row.model.rpartition(":")[2], row.method, row.peer, row.smoothing, f"{row.largest:.1e}{mark}", f"{row.mean:.1e}"]
        lines.append(f"| {' | '.join([*cells, f'{row.allowed:.0e}', *rest])} |")
    return "\n".join(lines)


def page(rows: list[Row], ratio: float) -> str:
    intro = __doc__.partition("For each model")[2].partition("The last line")[0].strip()
    counts = [len({getattr(row, part) for row in rows}) for part in ("model", "method", "peer")]
    return (
        "# Parity with pytorch_grad_cam and others\n\n"
        f"Made by `scripts/parity.sh`: {counts[0]} models, {counts[1]} methods, {counts[2]} peers. For each model{intro}\n\n"
        f"Median of the default's distance to fp64 relative to fp32's: {ratio:.2f}.\n\n{table(rows)}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument(
        "--models", type=Path, metavar="FOLDER", help="where exported models are kept (default: a temporary folder)"
    )
    parser.add_argument("--peer", nargs="+", default=PEERS, choices=PEERS, metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    args = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        models = args.models or Path(temporary)
        models.mkdir(parents=True, exist_ok=True)
        for row in compared(args.camflow, models, args.peer, args.only):
            rows.append(row)
            print(f"{'ok    ' if row.passed() else 'FAILED'} {describe(row)}", flush=True)
    if not rows:
        parser.error(f"no peer is compared on {', '.join(args.only)}")
    ratio = median_ratio(rows)
    failed = sum(not row.passed() for row in rows) + (ratio > 1.5)
    print(f"median of the default's distance to fp64 relative to fp32's: {ratio:.2f}")
    if args.write:
        args.write.write_text(page(rows, ratio))
    print(f"{len(rows) - sum(not row.passed() for row in rows)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
