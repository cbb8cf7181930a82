"""What Ultralytics itself makes of its models, beside what camflow's exporter has them give. Run by `test_ultralytics.py`, as its
library changes the process that it is imported in:

    ultralytics_reference.py outputs [-e] SETTINGS.yaml   how far results are from each other; -e: without non-maximum suppression
    ultralytics_reference.py save SETTINGS.yaml FILE.pt   a model with random weights
    ultralytics_reference.py layercam FILE.pt JOB.json    the heatmap of the predictions that boxes mean

One JSON object is printed on the last line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import ultralytics
from camflow.export.loaders import ultralytics as loader
from PIL import Image
from pytorch_grad_cam.utils.image import scale_cam_image
from ultralytics.utils.ops import xywh2xyxy

import torch


def opened(name: str):
    torch.manual_seed(0)
    return (ultralytics.RTDETR if "rtdetr" in Path(name).name else ultralytics.YOLO)(name)


def enliven(network) -> None:
    """Batch norms that have seen images, or random layers would give the same at all places."""
    network.float().eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
            part.train()
    torch.manual_seed(1)
    with torch.no_grad():
        network(torch.nn.functional.interpolate(torch.rand(4, 3, 24, 24), (160, 160), mode="bicubic"))
    network.eval()


def plain(results):
    while isinstance(results, tuple):
        results = results[0]
    return results


def outputs(name: str, is_end2end: bool) -> dict:
    model = opened(name)
    model.model.eval()
    if is_end2end:
        model.model.end2end = True
    torch.manual_seed(2)
    images = torch.rand(2, 3, 320, 320)
    with torch.no_grad():
        theirs = plain(model.model(images))
        module, _ = loader.network(model)
        ours = module(images)
    chances, boxes = ours["logits"].squeeze(-1).sigmoid(), ours["boxes"] * 320
    num_classes = chances.shape[1]
    if "rtdetr" in name or is_end2end:
        # The best predictions, one row each: box, score, class.
        found = theirs[..., :4] if is_end2end else xywh2xyxy(theirs[..., :4]) * 320
        scores, classes = theirs[..., 4], theirs[..., 5].long()
        distances = [
            (boxes[image] - found[image, row]).abs().amax(1) + (chances[image, classes[image, row]] - scores[image, row]).abs()
            for image in range(2)
            for row in range(0, theirs.shape[1], 7)
        ]
        furthest = max(float(one.min()) for one in distances)
        return {"boxes": furthest, "scores": furthest, "num_compared": len(distances)}
    found = xywh2xyxy(theirs[:, :4].transpose(1, 2))
    return {
        "boxes": float((boxes - found).abs().max()),
        "scores": float((chances - theirs[:, 4 : 4 + num_classes]).abs().max()),
        "num_compared": chances.numel(),
    }


def save(name: str, file: str) -> dict:
    model = opened(name)
    enliven(model.model)
    model.model.names[16] = "dog"
    model.save(file)
    return {"classes": model.names}


def layercam(file: str, job: dict) -> dict:
    """The map of the predictions that boxes mean: LayerCAM of each level that the head is given, scaled by itself, and the largest
    value at each pixel. Without boxes in the job, all that the model predicts."""
    model = opened(file)
    network, levels = model.model.float().eval(), model.model.model[-1].f
    captured: list = []
    for level in levels:
        network.model[level].register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    image = np.asarray(Image.open(job["image"]))
    height, width = image.shape[:2]
    images = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    if "wanted" not in job:
        with torch.no_grad():
            return {"boxes": predicted(network, images)[1][0].tolist()}
    logits, boxes = predicted(network, images)
    meant = set()
    for wanted in torch.tensor(job["wanted"]):
        low, high = torch.maximum(boxes[0, :, :2], wanted[:2]), torch.minimum(boxes[0, :, 2:], wanted[2:])
        both = (high - low).clip(0).prod(1)
        union = (boxes[0, :, 2:] - boxes[0, :, :2]).prod(1) + (wanted[2:] - wanted[:2]).prod() - both
        overlap = both / union
        chance = logits[0, job["channel"]].sigmoid().detach()
        meant.add(int(torch.where(overlap >= 0.5, overlap * chance, -1).argmax()))
    score = logits[0, job["channel"], sorted(meant)].sum()
    gradients = torch.autograd.grad(score, captured)
    maps = [
        scale_cam_image((activation * gradient.clip(0)).sum(1).clip(0).detach().numpy(), (width, height))[0]
        for activation, gradient in zip(captured, gradients, strict=True)
    ]
    np.save(job["out"], np.max([scale_cam_image(one[None])[0] for one in maps], axis=0))
    return {"score": float(score), "meant": sorted(meant), "largest": [float(one.max()) for one in maps]}


def predicted(network, images) -> tuple[torch.Tensor, torch.Tensor]:
    """(class logits [1, K, Q], boxes [1, Q, 4] in fractions of the image)."""
    results, raw = network(images)
    if isinstance(raw, dict):
        height, width = images.shape[-2:]
        boxes = xywh2xyxy(plain(results)[:, :4].transpose(1, 2)) / torch.tensor([width, height, width, height])
        return raw.get("one2many", raw)["scores"], boxes
    boxes, logits = raw[0], raw[1]
    return logits[-1].transpose(1, 2), xywh2xyxy(boxes[-1])


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "outputs":
        found = outputs(arguments[-1], "-e" in arguments)
    elif role == "save":
        found = save(*arguments)
    else:
        found = layercam(arguments[0], json.loads(Path(arguments[1]).read_text()))
    print(json.dumps(found))
