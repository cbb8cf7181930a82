"""What RF-DETR's library itself makes of its models, beside what camflow's exporter has them give. Run by `test_rfdetr.py`:

    rfdetr_reference.py outputs CLASS [NUM_CLASSES]   how far the results of `predict` are from the exporter's
    rfdetr_reference.py save FILE.pth                 an RF-DETR Nano with random weights, for three classes
    rfdetr_reference.py layercam FILE.pth JOB.json    the heatmap of the predictions that boxes mean
    rfdetr_reference.py serve                         all that is asked for on standard input (`detector_reference.answer`)

One JSON object is printed on the last line.
"""

from __future__ import annotations

import json
from pathlib import Path

import detector_reference
import rfdetr
from camflow.export.loaders import rfdetr as loader
from detectors import colours
from PIL import Image

import torch

NAMES = ["cat", "dog", "horse"]


def enliven(network) -> None:
    """Random weights that tell places from each other."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)


def outputs(kind: str, num_classes: int | None) -> dict:
    torch.manual_seed(0)
    options = {"num_classes": num_classes} if num_classes else {}
    model = getattr(rfdetr, kind)(pretrain_weights=None, device="cpu", **options)
    enliven(model.model.model)
    if num_classes:
        model.model.class_names = NAMES
    side = model.model.resolution
    image = colours(side)
    module, metadata = loader.network(model)
    found = model.predict(image, threshold=0.0)  # of the model as it was before
    step = metadata["preprocess"][-1]
    mean, std = (torch.tensor(step[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        ours = module((detector_reference.samples(image) - mean) / std)
    chances, boxes = ours["logits"][0, :, :, 0].sigmoid(), ours["boxes"][0].clip(0, 1) * side
    furthest, names = 0.0, set()
    for box, score, channel, name in zip(found.xyxy, found.confidence, found.class_id, found.data["class_name"], strict=True):
        off = (boxes - torch.from_numpy(box)).abs().amax(1) + (chances[int(channel)] - float(score)).abs()
        furthest = max(furthest, float(off.min()))
        names.add((str(channel), str(name).strip("_")))  # "__background__"
    wrong = [pair for pair in names if metadata["classes"].get(pair[0], "") != pair[1]]
    return {"furthest": furthest, "num_compared": len(found.xyxy), "num_names": len(names), "wrong_names": wrong}


def save(file: str) -> dict:
    torch.manual_seed(0)
    model = rfdetr.RFDETRNano(pretrain_weights=None, device="cpu", num_classes=len(NAMES))
    enliven(model.model.model)
    arguments = {"class_names": NAMES, "num_classes": len(NAMES)}
    torch.save({"model": model.model.model.state_dict(), "args": arguments, "model_name": "RFDETRNano"}, file)
    return {}


def layercam(file: str, job: dict) -> dict:
    model = rfdetr.RFDETR.from_checkpoint(file, device="cpu")
    network = model.model.model.float().eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.means, model.stds))
    images = (detector_reference.samples(Image.open(job["image"])) - mean) / std

    def predict() -> tuple[torch.Tensor, torch.Tensor]:
        found = network(images)
        centre, size = found["pred_boxes"].split(2, -1)
        return found["pred_logits"].transpose(1, 2), torch.cat([centre - size / 2, centre + size / 2], -1)

    return detector_reference.layercam(network, list(network.backbone[0].projector.stages), predict, images, job) | {
        "classes": model.class_names
    }


def compute(role: str, *arguments: str) -> dict:
    if role == "outputs":
        return outputs(arguments[0], int(arguments[1]) if len(arguments) > 1 else None)
    if role == "save":
        return save(*arguments)
    return layercam(arguments[0], json.loads(Path(arguments[1]).read_text()))


if __name__ == "__main__":
    detector_reference.answer(compute)
