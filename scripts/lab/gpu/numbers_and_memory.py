"""The steps of `check.py` that say whether it runs at all, whether the numbers are right, and what it does without memory."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from machine import (
    CAMFLOW,
    CLASSIFIER,
    CUDA,
    DEVICE,
    EXPORTS,
    INPUT,
    KIT,
    MONGOD,
    PYTHON,
    RESULTS,
    ROOT,
    SEGMENTATION,
    TINY,
    TRAINED,
    TWIN,
    TWIN_LAYERS,
    VIT,
    WORK,
    annotate,
    layer_paths,
    run,
    save,
    say,
    twin,
)
from speed import job_layers


def sanity() -> dict:
    found: dict = {}
    if CUDA:
        done = run(["nvidia-smi"], 20)
        say(done["out"][:2500])
        found["nvidia_smi"] = done["code"]
        if done["code"] == 0:
            query = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit"
            query += ",pcie.link.gen.current,pcie.link.width.current"
            found["gpu"] = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv"], 20)["out"].splitlines()[1:2]
    done = run([CAMFLOW, "doctor", "--database-uri", MONGOD[0].uri], 60)
    say(done["out"])
    found["doctor"], found["doctor_s"] = done["out"].splitlines(), done["s"]
    tiny = WORK / "models" / "standin-deeplab.pt2"
    photo = min((WORK / "dataset" / "images").iterdir())

    def explain(device: str, out: str) -> dict:
        flags = ["--class", "person", "--layers", "1-4", "--device", device, "--out", WORK / "tiny" / out, "--format", "json"]
        return run([CAMFLOW, "explain", photo, "--model", tiny, *flags], 90)

    for attempt in ("cold", "warm"):
        done = explain(DEVICE, attempt)
        found[f"explain_{attempt}"] = {
            "code": done["code"],
            "s": done["s"],
            "heatmaps": done["out"].count('"event":"heatmap"'),
            "stderr": done["err"][-500:],
        }
    # The same photograph on the CPU: a network that is trained, so the maps mean something.
    explain("cpu", "cpu")
    import numpy as np

    there = {path.name: np.load(path) for path in (WORK / "tiny" / "cold").glob("*.npy")}
    here = {path.name: np.load(path) for path in (WORK / "tiny" / "cpu").glob("*.npy")}
    found["largest_difference_to_cpu"] = max(
        (float(np.abs(there[name] - here[name]).max()) for name in here if name in there), default=None
    )
    if found["explain_cold"]["code"] != 0:
        raise RuntimeError(f"camflow does not run on {DEVICE}: {found['explain_cold']}")
    return found


def fidelity() -> dict:
    gradients = ["gradcam", "gradcam++", "layercam", "hirescam", "xgradcam"]
    plans = {
        "segmentation": dict(
            model=SEGMENTATION,
            layers=job_layers(),
            size=INPUT if not TINY else [96, 128],
            segmentation=True,
            channel=15,
            methods=gradients,
            # In fp64 a heatmap of this network takes half a second.
            inputs=2,
        ),
        "classifier": dict(
            model=CLASSIFIER,
            layers=layer_paths(CLASSIFIER, ["3", "4"]),
            size=[224, 224],
            channel=7,
            inputs=3,
            methods=[
                *gradients,
                "gradcam-elementwise",
                "eigencam",
                "eigengradcam",
                "fullgrad",
                "fem",
                "kpcacam",
                "shapleycam",
                "finercam",
                "scorecam",
                "ablationcam",
            ],
        ),
        "vit": dict(
            model=VIT,
            layers=["blocks.6.norm1", "blocks.11.norm1"],
            size=[224, 224],
            layout="tokens",
            grid=[14, 14],
            prefix=1,
            channel=7,
            inputs=5,
            methods=[*gradients, "eigencam", "finercam", "kpcacam"],
        ),
    }
    plans = {
        "trained": {**plans["segmentation"], "model": TRAINED, "layers": layer_paths(TRAINED, ["1", "2", "3", "4"])},
        **plans,
    }
    if TINY:
        del plans["segmentation"]
        plans["trained"] |= {"inputs": 2, "methods": ["gradcam"]}
        plans["classifier"] |= {"inputs": 2, "size": [96, 96], "methods": ["gradcam", "eigencam", "shapleycam"]}
        plans["vit"] |= {"inputs": 1, "methods": ["gradcam"]}
    found: dict = {}
    for name, plan in plans.items():
        job = {
            "layout": "nchw",
            "grid": None,
            "prefix": 0,
            "segmentation": False,
            **plan,
            "archive": str(EXPORTS.get(plan["model"])),
            "folder": str(WORK / "fidelity" / name),
        }
        try:
            found[name] = twin("fidelity", 85 if not TINY else 600, **job)
            for method, row in found[name]["methods"].items():
                say(
                    f"{name} {method}: "
                    + ", ".join(
                        f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()
                        if key != "per_input"
                    )
                )
        except (RuntimeError, OSError) as error:
            found[name] = {"error": str(error)[-700:]}
            say(f"{name}: {found[name]['error'][-300:]}")
        RESULTS["steps"]["fidelity"] = found
        save()
    return found


def memory() -> dict:
    """Batches by free memory, and what happens where it runs out."""
    found: dict = {}
    plans = [
        (None, ["--batch-size", "auto"]),
        (8.0, ["--batch-size", "auto"]),
        (8.0, ["--batch-size", "64"]),
        (2.5, ["--batch-size", "16"]),
    ]
    for leave, flags in plans if CUDA else plans[:1]:
        hog = None
        name = f"{'all' if leave is None else leave} GiB free, {' '.join(flags)}"
        try:
            if leave is not None:
                job = WORK / "hog.json"
                job.write_text(json.dumps({"root": str(ROOT), "device": DEVICE, "leave_gib": leave}))
                hog = subprocess.Popen(
                    [PYTHON, str(KIT / "rates.py"), "hog", str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                found[f"{name}: hog"] = json.loads(hog.stdout.readline())
            found[name] = annotate("memory", 96 if not TINY else 2, ["--npy", "none", *flags], 50 if not TINY else 300)
            say(
                f"{name}: {found[name]['images_per_s']} images/s, {found[name]['samples']} done, {found[name].get('gpu_mib')} MiB"
            )
        except (RuntimeError, json.JSONDecodeError) as error:
            found[name] = {"error": str(error)[-700:]}
            say(f"{name}: {found[name]['error'][-300:]}")
        finally:
            if hog:
                hog.stdin.close()
                hog.wait(20)
        RESULTS["steps"]["memory"] = found
        save()
    return found


def methods() -> dict:
    """The gradient-free methods beside pytorch_grad_cam's; camflow's time is the difference between several images and one."""
    import numpy as np

    names = ["ablationcam", "scorecam"] if not TINY else ["ablationcam"]
    size = [224, 224] if not TINY else [64, 64]
    npy = WORK / "method.npy"
    layers = layer_paths(CLASSIFIER, ["4"])
    theirs = twin(
        "method",
        80 if not TINY else 400,
        model=CLASSIFIER,
        archive=str(EXPORTS.get(CLASSIFIER)),
        layers=layers,
        size=size,
        channel=7,
        methods=names,
        npy=str(npy),
    )
    found: dict = {}
    # One image and several: the difference leaves out the process's start.
    more = 1 if TINY else 4
    copies = [npy.with_name(f"method-{index}.npy") for index in range(more)]
    for path in copies:
        shutil.copy(npy, path)
    for name in names:
        seconds = []
        for inputs in ([npy], [npy, *copies]):
            command = [
                CAMFLOW,
                "explain",
                *inputs,
                "--model",
                EXPORTS.get(CLASSIFIER),
                "--class",
                "7",
                "--layers",
                ",".join(layers),
                "--method",
                name,
            ]
            done = run([*command, "--device", DEVICE, "--out", WORK / "methods", "--format", "json"], 60 if not TINY else 300)
            seconds.append(done["s"])
        wanted = np.load(npy.with_suffix(f".{name}.wanted.npy"))
        [path] = (WORK / "methods").glob(f"method.*.{name}.*.npy")
        own = (seconds[1] - seconds[0]) / more
        found[name] = {"pytorch_grad_cam_s": theirs[name]["s"], "camflow_process_s": seconds[0], "camflow_s": round(own, 3)}
        # Noise, where more images took no longer.
        found[name]["ratio"] = round(theirs[name]["s"] / own, 2) if own > 0.005 else None
        found[name]["largest_difference"] = float(np.abs(np.load(path) - wanted).max())
        say(f"{name}: {found[name]}")
    return found


def faithfulness() -> dict:
    """The measures that run the model on changed images: as on the CPU, and how long a heatmap takes."""
    tiny = WORK / "models" / "standin-deeplab.pt2"
    found: dict = {}
    values: dict = {}
    for device in dict.fromkeys((DEVICE, "cpu")):
        count = 1 if TINY else 4 if device == "cpu" else 32
        name = f"faith-{device.partition(':')[0]}"
        flags = ["--faithfulness", "--npy", "none", "--device", device]
        ended = annotate(name, count, flags, 60 if not TINY else 400, model=tiny, layers=["4"])
        found[device] = {
            "samples": ended["samples"],
            "s_per_heatmap": round(ended["loop_s"] / max(1, ended["samples"]), 3),
        }
        dataset = MONGOD[0].client["fiftyone"]["datasets"].find_one({"name": name})
        values[device] = {}
        for sample in MONGOD[0].client["fiftyone"][dataset["sample_collection_name"]].find():
            label = sample.get("person_grad_layer_4") or {}
            values[device][Path(sample["filepath"]).name] = {
                key: label.get(key) for key in ("confidence", "deletion_auc", "insertion_auc", "road")
            }
    if len(values) == 2:
        there, here = values[DEVICE], values["cpu"]
        found["largest_difference"] = max(
            (
                abs(there[name][key] - here[name][key])
                for name in here
                if name in there
                for key in here[name]
                if here[name][key] is not None and there[name][key] is not None
            ),
            default=None,
        )
    return found


def compiled() -> dict:
    return twin(
        "compiled",
        120 if not TINY else 400,
        twin_model=TWIN,
        input=INPUT,
        layers=TWIN_LAYERS,
        compile_batch=32 if not TINY else 1,
        phase_repeats=5 if not TINY else 1,
    )
