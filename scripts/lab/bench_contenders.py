"""What scripts/lab/bench.py measures camflow against, each a process of its own: the same heatmaps in Python.

    notebook    FiftyOne's tutorial "GradCam and More": for each layer, for each sample, a forward pass for the mask, and
                pytorch_grad_cam's GradCAM (a forward and a backward pass with gradients of all weights), then `sample.save()`
    python      what one would write after a thought: DataLoader, one forward and one backward pass for all layers, frozen
                weights, batches, `set_values` for many samples at once
    tuned       the same as far as Python goes: batch norms folded into convolutions, channels_last, the database written by
                a thread of its own
    tuned_bf16  that in bf16

`make` makes the model's archive and the datasets (`make_long` one long dataset), `compare` reads all heatmaps back. Each takes the folder of the benchmark,
reads `job.json` in it, and prints one line of JSON.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms

import torch

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "lab" / "standin")]

import export_model
from camflow import load
from logits import Logits

LABEL = "ground_truth"
CHUNK = 16  # samples whose heatmaps go into the database together


# ---------------------------------------------------------------------------------------------------- model and pictures


def archive_metadata(archive: Path) -> dict:
    """The archive's `camflow.json`."""
    with zipfile.ZipFile(archive) as entries:
        [name] = [name for name in entries.namelist() if name.endswith("/camflow.json")]
        return json.loads(entries.read(name))


def exported(job: dict) -> tuple[Path, tuple[str, ...]]:
    """The model's archive, made if it is not there, and whether its weights are published ones or random."""
    prefix, _, rest = job["model"].partition(":")
    arguments = ()
    if prefix == "torchvision":
        cached = Path(torch.hub.get_dir()) / "checkpoints"
        arguments = (
            ("--weights", "default")
            if list(cached.glob(f"{rest}_*.pth"))
            else ("--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
        )
    if job["archive"]:
        return Path(job["archive"]), arguments
    exporter = b"".join(path.read_bytes() for path in sorted((SCRIPTS.parent / "python" / "camflow" / "export").rglob("*.py")))
    digest = hashlib.sha256(repr((job["model"], arguments)).encode() + exporter)
    stem = "".join(c if c.isalnum() else "_" for c in Path(job["model"]).name)
    path = Path(job["models"]) / f"{stem}-{digest.hexdigest()[:12]}.pt2"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, SCRIPTS / "export_model.py", job["model"], "--out", path, *arguments]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return path, arguments


def load_model(job: dict) -> torch.nn.Module:
    """The PyTorch model with the archive's own weights."""
    prefix = job["model"].partition(":")[0]
    module = export_model.load_model(job["model"], "none" if prefix == "torchvision" else "default").module
    # The archive lacks what the exported output does not need (an auxiliary classifier).
    missing = module.load_state_dict(torch.export.load(job["archive"]).state_dict, strict=False)
    if missing.unexpected_keys or any(not key.startswith("aux_classifier.") for key in missing.missing_keys):
        raise SystemExit(f"the archive's weights are not the model's: {missing}")
    return module.eval()


def transform(job: dict) -> transforms.Compose:
    """The model's preprocessing of a PIL image, by torchvision."""
    resize, normalize = job["preprocess"]
    assert (resize["op"], normalize["op"]) == ("resize_smaller", "normalize"), job["preprocess"]
    return transforms.Compose(
        [transforms.Resize(resize["size"]), transforms.ToTensor(), transforms.Normalize(normalize["mean"], normalize["std"])]
    )


def on_output(mask: np.ndarray, height: int, width: int, channel: int) -> np.ndarray:
    """The class's pixels f32 [height, width] in a label's mask, by nearest neighbour."""
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), mask.shape, strict=True))
    return (mask[rows[:, None], columns] == channel).astype(np.float32)


def pictures(count: int, height: int, width: int):
    """Photographs with one person pasted in front of each, and their masks; always the same ones."""
    import photos

    rng = np.random.default_rng(11)
    backgrounds = photos.HELD_OUT_BACKGROUNDS + photos.TRAINING_BACKGROUNDS
    people = tuple(photos.PEOPLE)
    for index in range(count):
        piece = photos.window(
            photos.photo(backgrounds[index % len(backgrounds)]), height, width, rng.uniform(1, 1.4), rng.random(2)
        )
        image, mask = np.ascontiguousarray(piece), np.zeros((height, width), np.uint8)
        tall = rng.uniform(0.6, 0.9) * height
        photos.paste(
            image,
            mask,
            people[index % len(people)],
            tall=tall,
            bottom=height + 0.1 * tall,
            centre=width * rng.uniform(0.3, 0.7),
            mirrored=rng.random() < 0.5,
        )
        yield image, mask


# ---------------------------------------------------------------------------------------------------------- the job


def make(folder: Path, job: dict) -> dict:
    """The archive, and a dataset of the same images for each contender: what one stores must not weigh on another."""
    import fiftyone as fo

    archive, arguments = exported(job)
    metadata = archive_metadata(archive)
    classes = {int(index): name for index, name in metadata["classes"].items()}
    on_gpu = torch.cuda.is_available()
    job = {
        **job,
        "archive": str(archive),
        "weights": "random" if "none" in arguments else "trained",
        "preprocess": metadata["preprocess"],
        "numbers": job["layers"],
        "layers": [metadata["aliases"][number] for number in job["layers"]],
        "channel": next(index for index, name in classes.items() if name == job["class"]),
        "device": "cuda" if on_gpu else "cpu",
        "samples": job["samples"] or (256 if on_gpu else 8),
        "notebook_samples": job["notebook_samples"] or (32 if on_gpu else 2),
        # Of 1, 2 and 4 on two cores the fastest for both Python versions; a GPU wants more.
        "batch_size": job["batch_size"] or (8 if on_gpu else 1),
    }
    images = folder / "images"
    images.mkdir()
    samples = []
    for index, (image, mask) in enumerate(pictures(job["samples"], *job["image_size"])):
        path = images / f"{index:05}.jpg"
        Image.fromarray(image).save(path, quality=90)
        sample = fo.Sample(filepath=str(path))
        # The value of `person` is its channel.
        sample[LABEL] = fo.Segmentation(mask=np.where(mask > 0, job["channel"], 0).astype(np.uint8))
        samples.append(sample)
        if index == 0:
            pixels = transform(job)(Image.open(path).convert("RGB"))
            np.save(folder / "input.npy", pixels[None].numpy())
            np.save(folder / "mask.npy", sample[LABEL].mask)
            job["input"] = list(pixels.shape)
    for contender in job["contenders"]:
        dataset = fo.Dataset(f"bench-{contender}")
        dataset.persistent = True
        dataset.default_mask_targets = classes
        dataset.add_samples([sample.copy() for sample in samples], progress=False)
    (folder / "job.json").write_text(json.dumps(job))
    return {
        **{
            key: job[key]
            for key in ("weights", "layers", "device", "samples", "notebook_samples", "batch_size", "input", "archive")
        },
        "torch": torch.__version__.partition("+")[0],
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def make_long(folder: Path, job: dict) -> dict:
    """The dataset `bench-long` of many samples: they share a few files, as only their number counts."""
    import fiftyone as fo

    archive, _ = exported(job)
    images = folder / "images"
    images.mkdir()
    paths = [images / f"{index}.jpg" for index in range(16)]
    for path, (image, _) in zip(paths, pictures(len(paths), 240, 320), strict=True):
        Image.fromarray(image).save(path, quality=90)
    dataset = fo.Dataset("bench-long")
    dataset.persistent = True
    samples = (fo.Sample(filepath=str(paths[index % len(paths)])) for index in range(job["samples"]))
    dataset.add_samples(samples, progress=False, num_samples=job["samples"])
    return {"archive": str(archive)}


def fields(job: dict) -> list[str]:
    return [f"{job['class']}_grad_layer_{number}" for number in job["numbers"]]


@contextlib.contextmanager
def measured(job: dict, count: int, result: dict):
    """Adds what the loop inside took; the process's start and loading the model are counted apart."""

    def cpu() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    start, cpu_start = time.perf_counter(), cpu()
    yield
    result.update(num_samples=count, loop_s=time.perf_counter() - start, loop_cpu_s=cpu() - cpu_start)
    if job["device"] == "cuda":
        result["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()


def notebook(_folder: Path, job: dict) -> dict:
    """The tutorial's loop with the layer it means. It explains the mask that the model predicts; with random weights a class
    may be predicted nowhere, so the label's mask takes its place, after the forward pass for the predicted one as there."""
    import fiftyone as fo
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    device, prepare = job["device"], transform(job)
    model = Logits(load_model(job).requires_grad_(True)).to(device)
    dataset = fo.load_dataset("bench-notebook")
    dataset = dataset[: job["notebook_samples"]]
    result = {}
    with measured(job, len(dataset), result):
        for field, path in zip(fields(job), job["layers"], strict=True):
            target_layers = [model.model.get_submodule(path)]
            for sample in dataset:
                image = np.asarray(Image.open(sample.filepath).convert("RGB"))
                pixels = prepare(transforms.functional.to_pil_image(image))[None].to(device)
                # Without a graph: the cheapest way to the mask, so that the loop is not made slower than it need be.
                with torch.no_grad():
                    predicted = torch.softmax(model(pixels), dim=1)[0].argmax(dim=0).cpu().numpy()
                mask = on_output(sample[LABEL].mask, *predicted.shape, job["channel"])
                targets = [SemanticSegmentationTarget(job["channel"], mask)]
                with GradCAM(model=model, target_layers=target_layers) as cam:
                    grayscale_cam = cam(input_tensor=pixels, targets=targets)[0, :]
                sample[field] = fo.Heatmap(map=grayscale_cam)
                sample.save()
    return result


class Pictures(torch.utils.data.Dataset):
    """Prepared images and masks, as worker processes read them."""

    def __init__(self, job: dict, paths: list[str], masks: list[np.ndarray]):
        self.channel, self.prepare, self.paths, self.masks = job["channel"], transform(job), paths, masks

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        pixels = self.prepare(Image.open(self.paths[index]).convert("RGB"))
        return pixels, on_output(self.masks[index], *pixels.shape[1:], self.channel)


def fold_batch_norms(module: torch.nn.Module) -> None:
    """Every batch norm into the convolution that stands right before it, as in ResNets and DeepLab's head."""
    children = list(module.named_children())
    for (before, convolution), (name, norm) in itertools.pairwise(children):
        if isinstance(norm, torch.nn.BatchNorm2d) and isinstance(convolution, torch.nn.Conv2d):
            setattr(module, before, torch.nn.utils.fusion.fuse_conv_bn_eval(convolution, norm))
            setattr(module, name, torch.nn.Identity())
    for _, child in children:
        fold_batch_norms(child)


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each map [N, H, W] from 0 to 1, as pytorch_grad_cam does it."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (1e-7 + maps.amax((1, 2), keepdim=True))


def heatmaps(model, captured: list, pixels, masks, channel: int) -> list[np.ndarray]:
    """By layer f32 [N, H, W]. `captured` is where the hooks leave the layers' activations."""
    captured.clear()
    with torch.enable_grad():
        logits = model(pixels)
        score = (logits[:, channel].float() * masks).sum()
        gradients = torch.autograd.grad(score, captured)
    maps = []
    for activation, gradient in zip(captured, gradients, strict=True):
        activation, gradient = activation.detach().float(), gradient.float()
        saliency = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu()
        resized = torch.nn.functional.interpolate(
            scaled(saliency)[:, None], pixels.shape[2:], mode="bilinear", align_corners=False
        )
        maps.append(scaled(resized[:, 0]).cpu().numpy())
    return maps


def one_pass(job: dict, contender: str, tuned: bool, kind: torch.dtype) -> dict:
    import fiftyone as fo

    device, layout = job["device"], torch.channels_last if tuned else torch.contiguous_format
    model = load_model(job).requires_grad_(False)
    captured = []

    def first(_module, _inputs, output):
        """The graph of the backward pass begins here: nothing before the first layer is differentiated."""
        leaf = output.detach().requires_grad_(True)
        captured.append(leaf)
        return leaf

    def later(_module, _inputs, output):
        captured.append(output)

    if tuned:
        fold_batch_norms(model)
    for index, path in enumerate(job["layers"]):
        model.get_submodule(path).register_forward_hook(later if index else first)
    model = Logits(model).to(device, kind, memory_format=layout)
    dataset = fo.load_dataset(f"bench-{contender}")

    def store(found: dict[str, dict[str, np.ndarray]]) -> None:
        for field, maps in found.items():
            dataset.set_values(field, {key: fo.Heatmap(map=one) for key, one in maps.items()}, key_field="id", progress=False)

    result = {}
    with measured(job, len(dataset), result), concurrent.futures.ThreadPoolExecutor(1) as writer:
        ids, paths, labels = dataset.values(["id", "filepath", f"{LABEL}.mask"])
        loader = torch.utils.data.DataLoader(
            Pictures(job, paths, labels),
            batch_size=job["batch_size"],
            num_workers=min(8, os.cpu_count() or 1),
            pin_memory=device == "cuda",
        )
        writes, done, found = [], 0, {}
        for pixels, masks in loader:
            pixels = pixels.to(device, kind, non_blocking=True, memory_format=layout)
            maps = heatmaps(model, captured, pixels, masks.to(device, non_blocking=True), job["channel"])
            keys = ids[done : done + len(pixels)]
            done += len(pixels)
            for field, of_layer in zip(fields(job), maps, strict=True):
                found.setdefault(field, {}).update(zip(keys, of_layer, strict=True))
            if len(found[field]) >= CHUNK or done == len(ids):
                if tuned:
                    writes.append(writer.submit(store, found))
                else:
                    store(found)
                found = {}
        for write in writes:
            write.result()
    return result


def compare(_folder: Path, job: dict) -> dict:
    """By contender, over all its maps that the base has too: how far they are from the base's."""
    import fiftyone as fo

    def maps(contender: str) -> dict[tuple[str, str], np.ndarray]:
        dataset = fo.load_dataset(f"bench-{contender}")
        found = {}
        for sample in dataset:
            for field in fields(job):
                label = sample[field] if dataset.has_field(field) else None
                if label is not None:
                    found[Path(sample.filepath).name, field] = load(label) if label.has_field("npy_path") else label.map
        return found

    base = maps(job["contenders"][0])
    result = {"base": job["contenders"][0], "num_maps": len(base), "deviation": {}}
    # A reference of zeros would agree with anything.
    result["num_empty"] = sum(not one.max() > 0 for one in base.values())
    for contender in job["contenders"][1:]:
        found = maps(contender)
        missing = sorted(set(base) - set(found))
        if missing:
            raise SystemExit(f"{contender} has no {missing[0]}, and {len(missing)} in all are missing")
        differences = [np.abs(found[key] - one) for key, one in base.items()]
        result["deviation"][contender] = {
            "max": float(max(d.max() for d in differences)),
            "median_of_max": float(np.median([d.max() for d in differences])),
            "mean": float(np.mean([d.mean() for d in differences])),
        }
    return result


def main() -> None:
    role, folder = sys.argv[1], Path(sys.argv[2])
    job = json.loads((folder / "job.json").read_text())
    roles = {
        "make": make,
        "make_long": make_long,
        "compare": compare,
        "notebook": notebook,
        "python": lambda _, job: one_pass(job, "python", False, torch.float32),
        "tuned": lambda _, job: one_pass(job, "tuned", True, torch.float32),
        "tuned_bf16": lambda _, job: one_pass(job, "tuned_bf16", True, torch.bfloat16),
    }
    print(json.dumps(roles[role](folder, job)))


if __name__ == "__main__":
    main()
