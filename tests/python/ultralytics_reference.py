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

import detector_reference
import numpy as np
import ultralytics
from camflow.export.loaders import ultralytics as loader
from PIL import Image
from ultralytics.utils.ops import xywh2xyxy

import torch


def opened(name: str):
    torch.manual_seed(0)
    stem = Path(name).name
    return (ultralytics.RTDETR if "rtdetr" in stem else ultralytics.YOLOE if "yoloe" in stem else ultralytics.YOLO)(name)


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
    texts = None
    if "yoloe" in name:
        texts, embedded = ["a cat", "dog"], torch.nn.functional.normalize(torch.randn(1, 2, 512), dim=-1)
        vars(model)["get_text_pe"] = lambda _texts: embedded  # its encoder is a download
        model.set_classes(texts, embedded)
    with torch.no_grad():
        theirs = plain(model.model(images))
        module, known = loader.network(model, texts)
        assert texts is None or list(known["classes"].values()) == texts
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
    model = opened(file)
    network, levels = model.model.float().eval(), model.model.model[-1].f
    images = torch.from_numpy(np.asarray(Image.open(job["image"])).copy()).permute(2, 0, 1)[None].float() / 255
    return detector_reference.layercam(
        network, [network.model[level] for level in levels], lambda: predicted(network, images), images, job
    )


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
