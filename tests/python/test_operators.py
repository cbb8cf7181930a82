"""Graphs that no exporter writes: operators that a model may not have, and those that it may with arguments that do not fit.

`src/torch/src/program/fuzz_operators.rs` calls all admitted operators with nonsense; here the whole program gets a few of the worst.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def tensor(name: str) -> dict:
    return {"as_tensor": {"name": name}}


def number(value) -> dict:
    if isinstance(value, bool):
        return {"as_bool": value}
    if isinstance(value, float):
        return {"as_float": value}
    if isinstance(value, str):
        return {"as_string": value}
    return {"as_ints": value} if isinstance(value, list) else {"as_int": value}


def hostile(source: Path, path: Path, *nodes: tuple) -> Path:
    """The model with nodes `(operator, {argument: value}, result)` behind its own; the sum of the last result is added to its output.

    An argument that begins with `@` is the value of that name, `@weight` the first weight and `@bias` the first bias.
    """
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as made:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("models/model.json"):
                content = json.dumps(with_nodes(json.loads(content), nodes)).encode()
            info = zipfile.ZipInfo(entry.filename)
            # As torch does it: contents begin at multiples of 64, where weights may be read in place.
            gap = -(made.fp.tell() + 30 + len(entry.filename) + 4) % 64
            info.extra = b"FB" + gap.to_bytes(2, "little") + bytes(gap)
            made.writestr(info, content)
    return path


def with_nodes(tree: dict, nodes: tuple) -> dict:
    module = tree["graph_module"]
    graph, signature = module["graph"], module["signature"]
    named = {}
    for spec in signature["input_specs"]:
        for kind in spec.values():
            if "parameter_name" in kind:
                named.setdefault(f"@{kind['parameter_name'].rsplit('.')[-1]}", kind["arg"]["name"])
    output = graph["outputs"][0]["as_tensor"]["name"]
    pattern = next(node for node in graph["nodes"] if node["outputs"] and "as_tensor" in node["outputs"][0])

    def add(operator: str, arguments: dict, result: str) -> None:
        inputs = []
        for key, value in arguments.items():
            at = isinstance(value, str) and value.startswith("@")
            arg = tensor(named.get(value, value[1:])) if at else number(value) if not isinstance(value, dict) else value
            inputs.append({"name": key, "arg": arg, "kind": 1})
        node = {"target": f"torch.ops.aten.{operator}", "inputs": inputs, "name": result, "metadata": pattern["metadata"]}
        graph["nodes"].append({**node, "outputs": [tensor(result)], "is_hop_single_tensor_return": None})

    for operator, arguments, result in nodes:
        add(operator, arguments, result)
    add("sum.default", {"self": f"@{nodes[-1][2]}"}, "h_sum")
    add("add.Tensor", {"self": f"@{output}", "other": "@h_sum"}, "h_out")
    graph["outputs"] = [tensor("h_out")]
    for spec in signature["output_specs"]:
        if "user_output" in spec:
            spec["user_output"]["arg"] = tensor("h_out")
    return tree


INT64 = {"as_scalar_type": 5}


def full(value: int, *size: int) -> tuple:
    return "full.default", {"size": list(size), "fill_value": value, "dtype": INT64}, "k"


REFUSED = (
    ("_reshape_alias.default", {"self": "@bias", "size": [100_000_000], "stride": [1]}),
    ("as_strided.default", {"self": "@bias", "size": [1_000_000], "stride": [1]}),
    ("as_strided_.default", {"self": "@bias", "size": [1_000_000], "stride": [1]}),
    ("_convert_indices_from_coo_to_csr.default", {"self": "@k", "size": 3}),
    ("_sparse_coo_tensor_unsafe.default", {"indices": "@k", "values": "@bias", "size": [4]}),
    ("max_pool2d_with_indices_backward.default", {"grad_output": "@bias", "self": "@bias", "indices": "@k"}),
    ("max_unpool2d.default", {"self": "@bias", "indices": "@k", "output_size": [4, 4]}),
    ("_ctc_loss.default", {"log_probs": "@bias", "targets": "@k", "input_lengths": [5], "target_lengths": [2]}),
    ("segment_reduce.default", {"data": "@bias", "reduce": "sum", "lengths": "@k", "unsafe": True}),
    ("_unsafe_index.Tensor", {"self": "@bias", "indices": {"as_optional_tensors": [tensor("k")]}}),
    ("resize_.default", {"self": "@bias", "size": [1000]}),
    ("set_.source_Tensor", {"self": "@bias", "source": "@k"}),
    ("data.default", {"self": "@bias"}),
    ("_embedding_bag_forward_only.default", {"weight": "@weight", "indices": "@k", "offsets": "@k"}),
    ("_nested_view_from_buffer.default", {"self": "@bias"}),
    ("from_file.default", {"filename": "/etc/passwd", "shared": False, "size": 100}),
    ("lu_solve.default", {"self": "@bias", "LU_data": "@bias", "LU_pivots": "@k"}),
    ("_cudnn_init_dropout_state.default", {"dropout": 0.1, "train": True, "dropout_seed": 1}),
    ("manual_seed.default", {"self": "@bias"}),
)

# What no kernel checks is checked by camflow; what the others refuse is an error of the sample or of the model.
NONSENSE = {
    "attention": [
        ("reshape.default", {"self": "@bias", "shape": [1, 1, 1, -1]}, "q"),
        ("expand.default", {"self": "@q", "size": [1, 1, 500_000, -1]}, "many"),
        ("scaled_dot_product_attention.default", {"query": "@q", "key": "@many", "value": "@q"}, "h"),
    ],
    "pad": [
        ("reshape.default", {"self": "@bias", "shape": [1, 1, 1, 1, -1]}, "q"),
        ("reflection_pad3d.default", {"self": "@q", "padding": []}, "h"),
    ],
    "division": [
        full(-(2**63), 4),
        ("full.default", {"size": [4], "fill_value": -1, "dtype": INT64}, "z"),
        ("div.Tensor_mode", {"self": "@k", "other": "@z", "rounding_mode": "trunc"}, "h"),
    ],
    "indices": [full(10**9, 4), ("gather.default", {"self": "@bias", "dim": 0, "index": "@k"}, "h")],
    "steps": [("arange.start_step", {"start": 0, "end": -(2**63), "step": -1}, "h")],
    "out": [("abs.out", {"self": "@bias", "out": "@bias"}, "h")],
}


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    return path


def test_operators_that_are_not_admitted_are_named_at_once(camflow, tiny_model, tmp_path):
    nodes = [full(10**8, 4), *((name, arguments, f"h{n}") for n, (name, arguments) in enumerate(REFUSED))]
    path = hostile(tiny_model, tmp_path / "refused.pt2", *nodes)
    said = camflow("inspect", path, code=2).stderr
    for n, (name, _) in enumerate(REFUSED):
        assert f"node `h{n}`: operator `torch.ops.aten.{name}` is not one that camflow runs" in said, name
    assert said.count("\nhint: ") == 1 and str(path) in said


@pytest.mark.parametrize("name", NONSENSE)
def test_arguments_that_do_not_fit_are_an_error(binary, tiny_model, image, tmp_path, name):
    path = hostile(tiny_model, tmp_path / f"{name}.pt2", *NONSENSE[name])
    command = [binary, "explain", image, "--model", path, "--class", "light", "--layers", "1", "--out", tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode in (1, 2, 3), (done.returncode, done.stderr)
    assert "node `h` (aten::" in done.stderr, done.stderr
