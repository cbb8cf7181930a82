"""camflow's numbers beside PyTorch's, a process of its own: `fidelity.py ROLE JOB.json`, one JSON object on the last line.

fidelity    camflow's heatmaps and pytorch_grad_cam's on the same device, both held against fp64
method      how long pytorch_grad_cam takes for one method
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from twin import CUDA, DEVICE, JOB, tf32, wait

import torch


def archive_model(name: str, archive: str):
    """The PyTorch model with the archive's weights, giving logits."""
    import export_model
    from logits import Logits

    module = export_model.load_model(name, "none").module
    missing = module.load_state_dict(torch.export.load(archive).state_dict, strict=False)
    assert not missing.unexpected_keys, missing
    return Logits(module.eval())


def camflow_maps(inputs: list[Path], flags: list[str], out: Path, methods: list[str], mask: Path | None) -> subprocess.Popen:
    command = [
        JOB["camflow"],
        "explain",
        *inputs,
        "--model",
        JOB["archive"],
        "--class",
        JOB["channel"],
        "--layers",
        ",".join(JOB["layers"]),
    ]
    command += ["--method", ",".join(methods), "--out", out, "--device", DEVICE, "--format", "json", *flags]
    command += ["--mask", mask] if mask else []
    log = out.with_suffix(".jsonl").open("w")
    return subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)


def read_maps(out: Path) -> dict:
    found = {}
    for line in out.with_suffix(".jsonl").read_text().splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "heatmap":
            file = next(file for file in event["files"] if file.endswith(".npy"))
            found[Path(event["input"]).stem, event["method"], event["layer"]] = np.load(file)
    return found


def fidelity() -> dict:
    import grad_cam_reference
    import parity

    tf32(False)
    folder = Path(JOB["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    size = JOB["size"]
    case = parity.Case(
        JOB["model"],
        tuple(JOB["layers"]),
        tuple(size),
        JOB["layout"],
        tuple(JOB["grid"]) if JOB["grid"] else None,
        JOB["prefix"],
        JOB["segmentation"],
    )
    inputs, mask_file = [], None
    for index in range(JOB["inputs"]):
        pixels = parity.picture(*size, seed=1000 + index)
        inputs.append(folder / f"in{index}.npy")
        np.save(inputs[-1], pixels.numpy())
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : -8, 8 : -size[1] // 3] = 1
    if JOB["segmentation"]:
        mask_file = folder / "mask.npy"
        np.save(mask_file, mask * np.uint8(JOB["channel"]))
    gradients = [method for method in JOB["methods"] if method not in parity.PROBING]
    variants = {"default": [], "again": [], "exact": ["--exact"], "bf16": ["--precision", "bf16"]}
    if CUDA:
        variants["tf32"] = ["--precision", "tf32"]
    running = {}
    for name, flags in variants.items():
        methods = JOB["methods"] if name in ("default", "exact") else gradients
        running[name] = camflow_maps(inputs, flags, folder / name, methods, mask_file)
        if not CUDA:
            running[name].wait()
    model = archive_model(JOB["model"], JOB["archive"]).requires_grad_(True).to(DEVICE)
    double = copy.deepcopy(model).double()
    truth, single, reduced = {}, {}, {}
    for path in inputs:
        pixels = torch.from_numpy(np.load(path)).to(DEVICE)
        for method in JOB["methods"]:
            for layer in ("all",) if method == "fullgrad" else JOB["layers"][-1:] if method in parity.PROBING else JOB["layers"]:
                key = (path.stem, method, layer)
                attention = (
                    torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
                    if method == "shapleycam"
                    else contextlib.nullcontext()
                )
                try:
                    with grad_cam_reference.documented_sign(), attention:
                        layers = lambda net, layer=layer: [] if layer == "all" else [net.model.get_submodule(layer)]  # noqa: E731
                        single[key] = grad_cam_reference.reference_map(
                            case, model, layers(model), pixels, mask, JOB["channel"], method, False, False
                        )
                        if method not in parity.PROBING:
                            truth[key] = grad_cam_reference.reference_map(
                                case, double, layers(double), pixels.double(), mask, JOB["channel"], method, False, False
                            )
                        if method == "gradcam" and CUDA:
                            tf32(True)
                            reduced[key] = grad_cam_reference.reference_map(
                                case, model, layers(model), pixels, mask, JOB["channel"], method, False, False
                            )
                            tf32(False)
                except Exception as error:  # noqa: BLE001
                    single[key] = None
                    print(f"reference {key}: {str(error).splitlines()[0][:200]}", file=sys.stderr, flush=True)
    result = {"model": JOB["model"], "methods": {}, "failed": {}}
    found = {}
    for name, process in running.items():
        code = process.wait()
        found[name] = read_maps(folder / name)
        if code != 0:
            result["failed"][name] = {"code": code, "text": (folder / name).with_suffix(".jsonl").read_text()[-600:]}

    def largest(maps: dict, base: dict, method: str, stem: str) -> float | None:
        keys = [
            key
            for key in base
            if key[0] == stem and key[1] == method and base[key] is not None and key in maps and maps[key] is not None
        ]
        return max((float(np.abs(maps[key] - base[key]).max()) for key in keys), default=None)

    for method in JOB["methods"]:
        row = {"per_input": []}
        for path in inputs:
            one = {name: largest(found[name], truth, method, path.stem) for name in found if name != "again"}
            one["torch_fp32"] = largest(single, truth, method, path.stem)
            one["torch_tf32"] = largest(reduced, truth, method, path.stem)
            one["exact_to_torch"] = largest(found["exact"], single, method, path.stem)
            one["default_to_torch"] = largest(found["default"], single, method, path.stem)
            one["run_to_run"] = largest(found["again"], found["default"], method, path.stem)
            row["per_input"].append({key: value for key, value in one.items() if value is not None})
        have = [one for one in row["per_input"] if "default" in one and "torch_fp32" in one]
        if have:
            # Nearer than `--exact` is held to, which of two roundings is the nearer one is chance.
            ratios = [one["default"] / max(one["torch_fp32"], 1e-5) for one in have]
            row["median_ratio"] = round(statistics.median(ratios), 3)
            row["each_within"] = all(one["default"] <= 3 * one["torch_fp32"] + 1e-4 for one in have)
            row["passed"] = (row["median_ratio"] <= 1.5 and row["each_within"]) or method in parity.ILL_CONDITIONED
            for name in ("exact", "bf16", "tf32", "torch_tf32"):
                values = [one[name] for one in have if name in one]
                if values:
                    row[f"{name}_from_fp64"] = max(values)
            row["fp32_from_fp64"], row["default_from_fp64"] = (
                max(one["torch_fp32"] for one in have),
                max(one["default"] for one in have),
            )
        result["methods"][method] = row
    return result


def method() -> dict:
    import grad_cam_reference
    import parity

    tf32(False)
    model = archive_model(JOB["model"], JOB["archive"]).requires_grad_(True).to(DEVICE)
    case = parity.Case(JOB["model"], tuple(JOB["layers"]), tuple(JOB["size"]))
    pixels = parity.picture(*JOB["size"], seed=0)
    np.save(JOB["npy"], pixels.numpy())
    layers = [model.model.get_submodule(JOB["layers"][-1])]
    result = {}
    for name in JOB["methods"]:
        for attempt in range(2):
            wait()
            start = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                wanted = grad_cam_reference.reference_map(
                    case, model, layers, pixels.to(DEVICE), None, JOB["channel"], name, False, False
                )
            wait()
            result[name] = {"s": round(time.perf_counter() - start, 3), "attempt": attempt}
            if result[name]["s"] > 20:
                break
        np.save(Path(JOB["npy"]).with_suffix(f".{name}.wanted.npy"), wanted)
    return result


if __name__ == "__main__":
    print(json.dumps({"fidelity": fidelity, "method": method}[sys.argv[1]]()), flush=True)
