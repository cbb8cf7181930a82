"""The steps of `check.py` that say how fast it is."""

from __future__ import annotations

import contextlib
import json

from machine import (
    CLASSIFIER,
    CUDA,
    DEVICE,
    DEVICE_RATE,
    EXPORTS,
    INPUT,
    MONGOD,
    OUT,
    PYTHON,
    RESULTS,
    ROOT,
    SEGMENTATION,
    TINY,
    TRACE,
    TWIN,
    TWIN_LAYERS,
    VIT,
    WATCH,
    WORK,
    annotate,
    last_json,
    layer_paths,
    left,
    run,
    save,
    say,
    twin,
    wanted_layers,
)


def rates() -> dict:
    if TINY:
        rows = [[1, "fp32", False, "channels_last", "folded"], [2, "bf16", False, "contiguous", "plain"]]
        return twin("rates", 120, twin_model=TWIN, input=INPUT, layers=TWIN_LAYERS, matmul_side=512, phases=rows, phase_repeats=2)
    rows = [
        [32, "bf16", False, "channels_last", "folded"],
        [32, "tf32", False, "channels_last", "folded"],
        [8, "fp32", False, "contiguous", "folded"],
        [64, "bf16", True, "channels_last", "folded"],
        [8, "bf16", False, "channels_last", "folded"],
        [1, "bf16", False, "channels_last", "folded"],
        # An H200 had not done seven batches of 32 of these in a minute.
        [1, "fp32", False, "channels_last", "folded"],
    ]
    return twin("rates", 90, twin_model=TWIN, input=INPUT, layers=TWIN_LAYERS, matmul_side=8192, phases=rows, phase_repeats=5)


def job_layers() -> list[str]:
    return layer_paths(SEGMENTATION, wanted_layers())


def device_rate(
    model: str, size: list[int], layers: list[str], precision: str, batch: str, counts: tuple[int, int], limit: float
) -> dict:
    """The device stage alone: the seconds of two counts give the rate without what comes once (loading kernels, first memory)."""
    import numpy as np

    stem = WORK / f"rate_{size[0]}x{size[1]}"
    if not stem.with_suffix(".input.npy").exists():
        rng = np.random.default_rng(0)
        np.save(stem.with_suffix(".input.npy"), rng.standard_normal((1, 3, *size), dtype=np.float32))
        mask = np.zeros(size, np.uint8)
        mask[size[0] // 4 : -8, 8 : -size[1] // 3] = 15
        np.save(stem.with_suffix(".mask.npy"), mask)
    seconds, watched = [], {}
    for count in counts:
        command = [
            DEVICE_RATE,
            EXPORTS.get(model),
            stem.with_suffix(".input.npy"),
            stem.with_suffix(".mask.npy"),
            "15",
            ",".join(layers),
            DEVICE,
            count,
            batch,
            precision,
        ]
        done = run(command, limit)
        seconds.append(last_json(done)["loop_s"])
        watched = WATCH[0].between(done["to"] - seconds[-1], done["to"]) if WATCH else {}
    more, longer = counts[1] - counts[0], seconds[1] - seconds[0]
    row = {"precision": precision, "batch": batch, "naive_images_per_s": round(counts[1] / seconds[1], 2), **watched}
    # Noise, where the larger count took no longer.
    return (
        {**row, "images_per_s": round(more / longer, 2), "once_s": round(seconds[0] - counts[0] * longer / more, 2)}
        if longer > 0.02
        else {**row, "images_per_s": None}
    )


def device() -> dict:
    paths = job_layers()
    found: dict = {"rows": []}
    plans = [
        ("bf16", "auto", (33, 481)),
        ("tf32", "auto", (33, 321)),
        ("fp32", "auto", (33, 161)),
        ("bf16", "8", (32, 256)),
        ("bf16", "64", (64, 448)),
        ("bf16", "1", (8, 72)),
    ]
    if TINY:
        plans = [("fp32", "auto", (1, 3)), ("bf16", "2", (2, 4))]
    for precision, batch, counts in plans:
        try:
            row = device_rate(SEGMENTATION, INPUT, paths, precision, batch, counts, 40 if not TINY else 300)
        except RuntimeError as error:
            row = {"precision": precision, "batch": batch, "images_per_s": None, "error": str(error)[-300:]}
        found["rows"].append(row)
        say(f"device stage: {row}")
        RESULTS["steps"]["device"] = found
        save()
    # Small inputs: here the host, not the GPU, may set the pace.
    for model in (CLASSIFIER, VIT):
        last = EXPORTS.metadata(model)["default_layers"]
        counts = (2, 4) if TINY else (65, 2113)
        for precision in ("fp32",) if TINY else ("fp32", "bf16"):
            with contextlib.suppress(RuntimeError):
                row = {
                    "model": model,
                    **device_rate(
                        model, [96, 96] if TINY and model == CLASSIFIER else [224, 224], last, precision, "auto", counts, 45
                    ),
                }
                found["rows"].append(row)
                say(f"device stage: {row}")
    measured = RESULTS["steps"].get("rates", {})
    if measured.get("flops_per_image"):
        for row in found["rows"]:
            if "model" not in row:
                row["tflops"] = round(measured["flops_per_image"] * (row["images_per_s"] or 0) / 1e12, 2)
                ceiling = measured.get(f"matmul_{row['precision']}_tflops")
                row["share_of_matmul"] = round(row["tflops"] / ceiling, 3) if ceiling else None
    return found


def end_to_end() -> dict:
    found: dict = {}
    disk = WORK / "maps-on-disk"
    most, many, few = (3072, 768, 256) if not TINY else (5, 4, 3)
    plans = [
        # What comes once (kernels, first memory) is a small part of this one.
        ("bf16, .npy f32, a longer run", most, ["--precision", "bf16"], None),
        ("bf16, pictures only", many, ["--precision", "bf16", "--npy", "none"], None),
        ("bf16, .npy f32", many, ["--precision", "bf16"], None),
        ("fp32, .npy f32", few, [], None),
        ("fp32, pictures only", few, ["--npy", "none"], None),
        (
            "bf16, pictures only, two explainers on one device",
            many,
            ["--precision", "bf16", "--npy", "none", "--device", f"{DEVICE},{DEVICE}"],
            None,
        ),
        ("bf16, small pictures", many, ["--precision", "bf16", "--npy", "none", "--size", "layer"], None),
        ("bf16, .npy f32, to disk", many, ["--precision", "bf16"], disk),
        ("bf16, .npy f16", many, ["--precision", "bf16", "--npy", "f16"], None),
        ("exact, .npy f32", few, ["--exact"], None),
        ("tf32, pictures only", many, ["--precision", "tf32", "--npy", "none"], None),
    ]
    for index, (name, count, flags, out) in enumerate(plans[:4] if TINY else plans):
        if left() < 15:
            break
        try:
            found[name] = annotate(f"e2e-{index}", count, flags, 30 if not TINY else 300, out)
            pace = max(
                found[name]["stages"],
                key=lambda stage: (
                    found[name]["stages"][stage]["busy_s"] / max(1, found[name]["stages"][stage].get("num_threads", 1))
                ),
            )
            found[name]["pace"] = pace
            say(
                f"{name}: {found[name]['images_per_s']} images/s, {pace} sets the pace, "
                f"GPU {found[name].get('gpu_percent_second_half')} %"
            )
        except RuntimeError as error:
            found[name] = {"error": str(error)[-700:]}
            say(f"{name}: {found[name]['error'][-300:]}")
        RESULTS["steps"]["end_to_end"] = found
        save()
    return found


def trace() -> dict:
    """What camflow makes the GPU do, recorded by CUPTI inside the process."""
    found: dict = {}
    for name, flags in {"bf16": ["--precision", "bf16", "--npy", "none"], "fp32": ["--npy", "none"]}.items():
        path = OUT / f"trace_{name}.json"
        environment = {"CUDA_INJECTION64_PATH": str(TRACE), "TRACE_OUT": str(path)} if CUDA else {}
        row = annotate(f"trace-{name}", 384 if not TINY else 2, flags, 35 if not TINY else 300, environment=environment)
        found[name] = {"images_per_s": row["images_per_s"], "device": row["stages"].get("device")}
        if path.exists():
            seen = json.loads(path.read_text())
            found[name] |= {
                key: seen[key]
                for key in (
                    "span_s",
                    "kernels_s",
                    "busy_by_twentieth",
                    "pauses_in_second_half",
                    "copies",
                    "waits",
                    "num_kernels",
                    "dropped",
                )
            }
            found[name]["top"] = seen["kernels"][:8]
            found[name]["calls"] = sorted(seen["calls"], key=lambda call: -call["s"])[:10]
            say(
                f"trace {name}: "
                + json.dumps({key: found[name][key] for key in ("kernels_s", "span_s", "busy_by_twentieth", "copies", "waits")})
            )
        else:
            found[name]["trace"] = "none was written"
        RESULTS["steps"]["trace"] = found
        save()
    return found


def contenders() -> dict:
    """The benchmark's Python versions on the same device, with TensorFloat-32 off and as torch has it by default."""
    metadata = EXPORTS.metadata(SEGMENTATION)
    classes = {int(index): name for index, name in metadata["classes"].items()}
    folder = WORK / "contenders"
    folder.mkdir(exist_ok=True)
    numbers = wanted_layers()
    found: dict = {}
    for name, role, count, override, batch in (
        ("(a) the tutorial's loop, fp32", "notebook", 16, "0", 8),
        ("(b) good Python, fp32", "python", 64, "0", 8),
        ("(c) tuned Python, fp32", "tuned", 64, "0", 8),
        ("(c) tuned Python, bf16", "tuned_bf16", 64, None, 32),
        ("(a) the tutorial's loop, tf32 as torch has it", "notebook", 16, None, 8),
        ("(c) tuned Python, tf32 as torch has it", "tuned", 64, None, 8),
    )[: 2 if TINY else 6]:
        if left() < 20:
            break
        count = min(count, 2) if TINY else count
        MONGOD[0].dataset(f"bench-{role}", count)
        job = {
            "model": SEGMENTATION,
            "archive": str(EXPORTS.get(SEGMENTATION)),
            "models": str(WORK),
            "class": "person",
            "layers": layer_paths(SEGMENTATION, numbers),
            "numbers": numbers,
            "samples": count,
            "notebook_samples": count,
            "batch_size": 1 if TINY else batch,
            "contenders": [role],
            "preprocess": metadata["preprocess"],
            "channel": next(index for index, label in classes.items() if label == "person"),
            "device": DEVICE.partition(":")[0],
            "weights": "random",
            "input": [3, *INPUT],
        }
        (folder / "job.json").write_text(json.dumps(job))
        environment = {"FIFTYONE_DO_NOT_TRACK": "true"}
        if override:
            environment["NVIDIA_TF32_OVERRIDE"] = override
        try:
            done = run(
                [PYTHON, ROOT / "scripts" / "lab" / "bench_contenders.py", role, folder], 60 if not TINY else 400, environment
            )
            made = last_json(done)
            found[name] = {
                **made,
                "images_per_s": round(made["num_samples"] / made["loop_s"], 3),
                "start_s": round(done["s"] - made["loop_s"], 1),
            }
            say(f"{name}: {found[name]['images_per_s']} images/s")
        except (RuntimeError, IndexError) as error:
            found[name] = {"error": str(error)[-900:]}
            say(f"{name}: {found[name]['error'][-300:]}")
        RESULTS["steps"]["contenders"] = found
        save()
    return found


def ratios() -> dict:
    steps = RESULTS["steps"]

    def rate(step: str, name: str):
        return (steps.get(step, {}).get(name) or {}).get("images_per_s")

    alone = {
        row["precision"]: row["images_per_s"]
        for row in steps.get("device", {}).get("rows", [])
        if row.get("batch") == "auto" and "model" not in row
    }
    pairs = {
        "fp32 over (a) fp32": (rate("end_to_end", "fp32, .npy f32"), rate("contenders", "(a) the tutorial's loop, fp32")),
        "bf16 over (a) fp32": (rate("end_to_end", "bf16, .npy f32"), rate("contenders", "(a) the tutorial's loop, fp32")),
        "bf16 over (a) as torch has it": (
            rate("end_to_end", "bf16, .npy f32"),
            rate("contenders", "(a) the tutorial's loop, tf32 as torch has it"),
        ),
        "fp32 over (b)": (rate("end_to_end", "fp32, .npy f32"), rate("contenders", "(b) good Python, fp32")),
        "fp32 over (c)": (rate("end_to_end", "fp32, .npy f32"), rate("contenders", "(c) tuned Python, fp32")),
        "bf16 over (c)": (rate("end_to_end", "bf16, .npy f32"), rate("contenders", "(c) tuned Python, bf16")),
        "fp32 end to end over device alone": (rate("end_to_end", "fp32, pictures only"), alone.get("fp32")),
        "bf16 end to end over device alone": (rate("end_to_end", "bf16, pictures only"), alone.get("bf16")),
    }
    for row in steps.get("rates", {}).get("phases", []):
        if row.get("batch") == 32 and row.get("precision") in alone and row.get("images_per_s"):
            key = f"device alone {row['precision']} over plain PyTorch ({row['layout']}, benchmark {row['benchmark']})"
            pairs[key] = (alone[row["precision"]], row["images_per_s"])
    found = {name: round(over / under, 3) for name, (over, under) in pairs.items() if over and under}
    for name, value in found.items():
        say(f"ratio {name}: {value}")
    return found
