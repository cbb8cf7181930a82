"""What scripts/lab/bench_peers.py measures camflow against, each a process of its own.

`make` makes the model's archive, the photographs and the dataset; `pytorch_grad_cam`, `torchcam`, `captum` and `openvino_xai` make maps in
a loop, method by method; `compare` says how far the first image's maps are from camflow's. Each prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torchvision
from PIL import Image
from torchvision import transforms

import torch

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "lab"), str(SCRIPTS / "lab" / "standin")]

LABEL = "ground_truth"
IMAGES = 96
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPARE = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
# torch-cam 0.5 and Captum have no way to tell which axis of these holds the channels.
TOKENS = ("swin_t", "vit_b_16")

Maker = Callable[[torch.Tensor], np.ndarray]


def make(job: dict) -> dict:
    import fiftyone as fo
    from bench_contenders import archive_metadata, pictures

    folder = Path(job["folder"])
    archive = folder / "model.pt2"
    own = job["model"] == "vit_b_16"
    source = f"{__file__}:{job['model']}" if own else f"torchvision:{job['model']}"
    command = [sys.executable, SCRIPTS / "export_model.py", source, "--out", archive, "--weights", "none"]
    command += ["--seed", "0", "--warm-batchnorm", "4", "--preprocess", "imagenet", "--resize", "224x224"]
    command += ["--classes", ",".join(f"class {channel}" for channel in range(1000))] if own else []
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    (folder / "images").mkdir()
    paths = [folder / "images" / f"{index:05}.jpg" for index in range(IMAGES)]
    for path, (image, _) in zip(paths, pictures(IMAGES, 480, 640), strict=True):
        Image.fromarray(image).save(path, quality=90)
    # The likeliest class of the first, so that maps are not empty; some share a name.
    with torch.no_grad():
        logits = model(job)(PREPARE(Image.open(paths[0]))[None])[0]
    names = archive_metadata(archive)["classes"]
    named = [(channel, names[str(channel)]) for channel in logits.argsort(descending=True).tolist()]
    channel, name = next((channel, name) for channel, name in named if list(names.values()).count(name) == 1)
    dataset = fo.Dataset(f"peers-{job['model']}", persistent=True)
    samples = [fo.Sample(filepath=str(path), **{LABEL: fo.Classification(label=name)}) for path in paths]
    dataset.add_samples(samples, progress=False)
    return {"archive": str(archive), "class": name, "channel": channel}


def vit_b_16() -> torch.nn.Module:
    """torchvision's, whose head is zero before it is trained."""
    module = torchvision.models.vit_b_16(weights=None)
    torch.nn.init.normal_(module.heads.head.weight, std=0.02)
    return module


def model(job: dict) -> torch.nn.Module:
    """The network with the archive's weights, which are frozen."""
    module = torchvision.models.get_model(job["model"], weights=None)
    module.load_state_dict(torch.export.load(Path(job["folder"]) / "model.pt2").state_dict)
    return module.eval().requires_grad_(False)


def tokens(job: dict) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """pytorch_grad_cam's `reshape_transform`, where channels are last."""
    if job["model"] == "swin_t":
        return lambda output: output.permute(0, 3, 1, 2)
    if job["model"] == "vit_b_16":
        return lambda output: output[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    return None


def pytorch_grad_cam(job: dict) -> Maker | str:
    import pytorch_grad_cam as library
    from grad_cam_reference import documented_sign
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    names = {
        "gradcam": "GradCAM",
        "gradcam++": "GradCAMPlusPlus",
        "xgradcam": "XGradCAM",
        "layercam": "LayerCAM",
        "hirescam": "HiResCAM",
        "eigencam": "EigenCAM",
        "scorecam": "ScoreCAM",
        "ablationcam": "AblationCAM",
    }
    if job["method"] not in names:
        return "no such method"
    module = model(job)
    more: dict[str, Any] = {}
    if job["method"] == "ablationcam" and job["model"] in TOKENS:
        from pytorch_grad_cam.ablation_layer import AblationLayerVit

        if job["model"] != "vit_b_16":
            return "it ablates tokens with channels last in three dimensions only"
        more["ablation_layer"] = AblationLayerVit()
    layer = module.get_submodule(job["layer"])
    cam = getattr(library, names[job["method"]])(module, [layer], reshape_transform=tokens(job), **more)
    # 32 at a time, its documentation's own number.
    cam.batch_size = 32

    def made(pixels: torch.Tensor) -> np.ndarray:
        # A principal component has no sign of its own; and frozen weights record no graph by themselves.
        with documented_sign():
            return cam(input_tensor=pixels.requires_grad_(True), targets=[ClassifierOutputTarget(job["channel"])])[0]

    return made


def torchcam(job: dict) -> Maker | str:
    from torchcam import methods

    names = {
        "gradcam": "GradCAM",
        "gradcam++": "GradCAMpp",
        "xgradcam": "XGradCAM",
        "layercam": "LayerCAM",
        "scorecam": "ScoreCAM",
    }
    if job["method"] not in names:
        return "no such method"
    if job["model"] in TOKENS:
        return "it takes no tokens"
    module = model(job)
    more = {"batch_size": 32} if job["method"] == "scorecam" else {}
    extractor = getattr(methods, names[job["method"]])(module, target_layer=job["layer"], **more)

    def made(pixels: torch.Tensor) -> np.ndarray:
        output = module(pixels.requires_grad_(job["method"] != "scorecam"))
        return upsampled(extractor(job["channel"], output)[0][0].detach())

    return made


def captum(job: dict) -> Maker | str:
    from captum.attr import LayerGradCam

    if job["method"] != "gradcam":
        return "no such method"
    if job["model"] in TOKENS:
        return "it takes no tokens"
    module = model(job)
    attribution = LayerGradCam(module, module.get_submodule(job["layer"]))
    return lambda pixels: upsampled(
        attribution.attribute(pixels.requires_grad_(True), job["channel"], relu_attributions=True)[0, 0].detach()
    )


def openvino_xai(job: dict) -> Maker | str:
    if job["method"] != "reciprocam":
        return "no such method"
    import openvino
    from openvino_xai import Method, Task, insert_xai

    method = Method.VITRECIPROCAM if job["model"] in TOKENS else Method.RECIPROCAM
    why = ""
    # Some networks are taken with a free number of images alone, and those that are not are quicker with a fixed one.
    for count in (1, -1):
        try:
            converted = openvino.convert_model(model(job), example_input=torch.rand(1, 3, 224, 224), input=[count, 3, 224, 224])
            explained = insert_xai(converted, task=Task.CLASSIFICATION, explain_method=method, embed_scaling=True)
            break
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
    else:
        return why
    # Where a processor has bfloat16, it would compute in that.
    compiled = openvino.Core().compile_model(explained, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: upsampled(torch.from_numpy(compiled(pixels.numpy())["saliency_map"][0, job["channel"]]))


def upsampled(saliency: torch.Tensor) -> np.ndarray:
    """A layer's map at the size of the input, f32 [224, 224], as their documentation shows it."""
    large = torch.nn.functional.interpolate(saliency[None, None].float(), (224, 224), mode="bilinear")
    return large[0, 0].numpy()


def timed(peer: str, job: dict) -> dict:
    """By method, maps in a loop, until the seconds are over or the images; why not, where there are none."""
    return {method: timed_method(peer, {**job, "method": method}) for method in job["methods"]}


def timed_method(peer: str, job: dict) -> dict:
    folder = Path(job["folder"])
    made = PEERS[peer](job)
    if isinstance(made, str):
        return {"lacks": made}
    paths = sorted((folder / "images").glob("*.jpg"))[: 1 if job["method"] in job["probing"] else None]

    def one(path: Path) -> np.ndarray:
        return made(PREPARE(Image.open(path).convert("RGB"))[None])

    forget_peak()
    # What the process has never had costs the first image more: not of these that take a minute for one.
    if len(paths) > 1:
        one(paths[-1])
    start, count = time.perf_counter(), 0
    for path in paths:
        saliency = one(path)
        count += 1
        if count == 1:
            np.save(folder / f"{peer}-{job['method']}.npy", saliency)
        if time.perf_counter() - start > job["seconds"]:
            break
    return {"num_samples": count, "loop_s": time.perf_counter() - start, "peak_memory_bytes": peak()}


def forget_peak() -> None:
    """The most memory so far no longer counts, and what no method needs any more goes back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most memory, resident, since then, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def compare(job: dict) -> dict:
    """By method, the largest difference of each library's first map to camflow's, both resized to the input and scaled to 0 to 1; `None`
    of a map of zeros, which would agree with any other such map."""
    import fiftyone as fo

    sample, folder = fo.load_dataset(f"peers-{job['model']}").first(), Path(job["folder"])
    found = {}
    for method, peers in job["peers"].items():
        label = sample[f"{method.replace('+', 'p')}_map"]
        ours = scaled(cv2.resize(np.load(label.npy_path).astype(np.float32), (224, 224)))
        theirs = {peer: scaled(np.load(folder / f"{peer}-{method}.npy")) for peer in peers}
        found[method] = {peer: float(np.abs(one - ours).max()) if one.any() else None for peer, one in theirs.items()}
    return found


def scaled(saliency: np.ndarray) -> np.ndarray:
    lifted = saliency - saliency.min()
    return lifted / max(float(lifted.max()), 1e-7)


PEERS = {"pytorch_grad_cam": pytorch_grad_cam, "torchcam": torchcam, "captum": captum, "openvino_xai": openvino_xai}


def main() -> None:
    role, job = sys.argv[1], json.loads(sys.argv[2])
    roles = {"make": make, "compare": compare}
    print(json.dumps(roles[role](job) if role in roles else timed(role, job)))


if __name__ == "__main__":
    main()
