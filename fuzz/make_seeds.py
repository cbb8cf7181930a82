"""Writes `fuzz/seeds/`: what fuzzing starts from, beside `src/media/testdata`.

    .venv/bin/python fuzz/make_seeds.py

Archives and graphs are those of small real models, without what a reader does not look at; masks are FiftyOne's own.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "fuzz" / "seeds"
MODELS = {
    "plain": "scripts/lab/growth.py:tiny",
    "writes": "tests/python/odd_models.py:InPlaceChunks",
    "shapes": "tests/python/odd_models.py:ShapeArithmetic",
    "no_grad": "fuzz/make_seeds.py:with_no_grad",
}


def with_no_grad():
    """A model with a subgraph, a buffer and a list of tensors."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
            self.register_buffer("offset", torch.ones(2, 1, 1), persistent=False)

        def forward(self, x):
            with torch.no_grad():
                mean = x.mean((2, 3), keepdim=True)
            left, right = self.conv(x - mean).split([1, 1], 1)
            return torch.cat([right, left], 1).relu_() + self.offset

    return Model().eval()


# What camflow's reader does not look at, and what is long.
IGNORED = {
    *("stack_trace", "torch_fn", "from_node", "hint", "requires_grad", "device", "kind", "sym_int_values", "sym_bool_values"),
    *(
        "strides",
        "in_spec",
        "out_spec",
        "storage_offset",
        "range_constraints",
        "guards_code",
        "verifiers",
        "opset_version",
        "is_hop_single_tensor_return",
        "custom_obj_values",
    ),
}


def shortened(graph):
    """The JSON of a graph without what is not read."""
    if isinstance(graph, dict):
        return {key: shortened(value) for key, value in graph.items() if key not in IGNORED}
    return [shortened(value) for value in graph] if isinstance(graph, list) else graph


def smaller(archive: Path) -> bytes:
    """The archive without example inputs and traces, its entries aligned as torch aligns them."""
    out = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            if "sample_inputs" in entry.filename:
                continue
            content = source.read(entry)
            if entry.filename.endswith("models/model.json"):
                content = json.dumps(shortened(json.loads(content)), separators=(",", ":")).encode()
            info = zipfile.ZipInfo(entry.filename)
            start = target.fp.tell() + 30 + len(entry.filename) + 4
            padding = -start % 64
            info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            target.writestr(info, content)
    return out.getvalue()


def main() -> None:
    shutil.rmtree(SEEDS, ignore_errors=True)
    for name in ("archive", "graph", "mask_document"):
        (SEEDS / name).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, reference in MODELS.items():
            model = Path(folder) / f"{name}.pt2"
            export = [sys.executable, ROOT / "scripts" / "export_model.py", reference, "--out", model, "--size", "16x16"]
            subprocess.run([str(part) for part in export], check=True, cwd=ROOT)
            archive = smaller(model)
            with zipfile.ZipFile(io.BytesIO(archive)) as entries:
                graph = entries.read(f"{name}/models/model.json")
            (SEEDS / "graph" / f"{name}.json").write_bytes(graph)
            if name == "plain":
                (SEEDS / "archive" / f"{name}.pt2").write_bytes(archive)
    masks = {
        "u8": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "bool": np.eye(4, dtype=bool),
        "i64": np.full((2, 2), -1, np.int64),
        "fortran": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        "rgb": np.zeros((2, 3, 3), np.uint8),
    }
    for name, mask in masks.items():
        npy = io.BytesIO()
        np.save(npy, mask)
        (SEEDS / "mask_document" / name).write_bytes(zlib.compress(npy.getvalue()))


if __name__ == "__main__":
    main()
