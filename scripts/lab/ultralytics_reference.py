"""What Ultralytics itself makes of its models, beside what camflow's exporter has them give. Run by `detectors.py` and
`test_ultralytics.py`, as its library changes the process that it is imported in:

    ultralytics_reference.py outputs [-e] [-pf] SETTINGS.yaml   how far results are from each other; -e: without non-maximum suppression;
                                                          -pf: of a YOLOE with a list of classes of its own
    ultralytics_reference.py save [-c] [-pf] SETTINGS.yaml FILE.pt   a model with random weights; -c: whose logits are small;
                                                          -pf: as above
    ultralytics_reference.py layercam FILE.pt JOB.json    the heatmap of the predictions that boxes mean
    ultralytics_reference.py own FILE.pt JOB.json         the library's own heatmap of its best prediction
    ultralytics_reference.py rate FILE.pt JOB.json        how many images a second the library draws, and what it explains of each
    ultralytics_reference.py serve                        all that is asked for on standard input (`detector_reference.answer`)

One JSON object is printed on the last line.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import detector_reference
import numpy as np
import ultralytics
from camflow.export.loaders import ultralytics as loader
from PIL import Image
from ultralytics.utils import plotting
from ultralytics.utils.ops import xywh2xyxy, xywhr2xyxyxyxy

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


def calm(network) -> None:
    """Logits within 4 of 0, where probabilities tell one prediction from the next."""
    torch.manual_seed(1)
    with torch.no_grad():
        largest = logits_of(network, network(torch.rand(1, 3, 320, 320))[1]).abs().max()
        head = network.model[-1]
        if hasattr(head, "dec_score_head"):
            last = list(head.dec_score_head)
        else:
            contrastive = [part for part in network.modules() if hasattr(part, "logit_scale")]
            branches = [branch[-1] for name in ("cv3", "one2one_cv3") for branch in getattr(head, name, None) or []]
            last = contrastive or branches
        for layer in last:
            if hasattr(layer, "logit_scale"):
                layer.logit_scale += torch.log(4 / largest)
            else:
                layer.weight *= 4 / largest
            if layer.bias is not None:
                layer.bias *= 4 / largest


def plain(results):
    while isinstance(results, tuple):
        results = results[0]
    return results


def around(boxes: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The sides of the boxes around the four corners of rotated ones."""
    rotated = xywhr2xyxyxyxy(torch.cat([boxes, angles], dim=-1))
    return torch.cat([rotated.amin(-2), rotated.amax(-2)], dim=-1)


def outputs(name: str, is_end2end: bool, is_free: bool = False) -> dict:
    model = opened(name)
    model.model.eval()
    if is_end2end:
        model.model.end2end = True
    torch.manual_seed(2)
    images = torch.rand(2, 3, 320, 320)
    texts = None
    if is_free:
        loader.set_list(model, [f"thing {number}" for number in range(7)])
        head = model.model.model[-1]
        head.conf = 0
    elif "yoloe" in name:
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
        if model.task == "obb":
            found = around(theirs[..., :4], theirs[..., -1:])
        else:
            found = theirs[..., :4] if is_end2end else xywh2xyxy(theirs[..., :4]) * 320
        scores, classes = theirs[..., 4], theirs[..., 5].long()
        compared = []
        for image in range(2):
            for row in range(0, theirs.shape[1], 7):
                of_boxes = (boxes[image] - found[image, row]).abs().amax(1)
                of_scores = (chances[image, classes[image, row]] - scores[image, row]).abs()
                nearest = int((of_boxes + of_scores).argmin())
                compared.append((float(of_boxes[nearest]), float(of_scores[nearest])))
        furthest = np.array(compared).max(0)
        return {"boxes": furthest[0], "scores": furthest[1], "num_compared": len(compared)}
    found = xywh2xyxy(theirs[:, :4].transpose(1, 2))
    if model.task == "obb":
        places = theirs.transpose(1, 2)
        found = around(places[..., :4], places[..., -1:])
    return {
        "boxes": float((boxes - found).abs().max()),
        "scores": float((chances - theirs[:, 4 : 4 + num_classes]).abs().max()),
        "num_compared": chances.numel(),
    }


def save(name: str, file: str, is_calm: bool = False, is_free: bool = False) -> dict:
    model = opened(name)
    if is_free:
        loader.set_list(model, [f"thing {number}" for number in range(20)])
        model.model.model[-1].conf = 0  # all places are proposed
    enliven(model.model)
    if is_calm:
        calm(model.model)
    model.model.names[16] = "dog"
    model.save(file)
    return {"classes": model.names}


def layercam(file: str, job: dict) -> dict:
    model = opened(file)
    network, levels = model.model.float().eval(), model.model.model[-1].f
    images = detector_reference.samples(Image.open(job["image"]))
    return detector_reference.layercam(
        network, [network.model[level] for level in levels], lambda: predicted(network, images), images, job
    )


class Recorded:
    """`torch` for the library's drawing, with what it stacks: the maps of a prediction at each level, before they become bytes."""

    def __init__(self):
        self.levels: list[torch.Tensor] = []

    def __getattr__(self, name: str):
        return getattr(torch, name)

    def stack(self, levels: list[torch.Tensor]) -> torch.Tensor:
        stacked = torch.stack(levels)
        self.levels.append(stacked)
        return stacked


class Backend(torch.nn.Module):
    """What its drawing takes: a network behind an attribute."""

    def __init__(self, network):
        super().__init__()
        self.model = network

    def forward(self, images):
        return self.model(images)


def own(file: str, job: dict) -> dict:
    network = opened(file).model.float().eval()
    images = detector_reference.samples(Image.open(job["image"]))
    channel, box, score = best_of(network, images)
    recorded = plotting.torch = Recorded()
    with tempfile.TemporaryDirectory() as folder:
        plotting.class_activation_map(Backend(network), images, ["image.png"], Path(folder), topk=1)
    [levels] = recorded.levels
    # As it is drawn, and with the least value of each level taken off, as pytorch_grad_cam does: they differ where it is not 0.
    scaled = levels - levels.amin((2, 3, 4), keepdim=True)
    scaled = scaled / scaled.amax((2, 3, 4), keepdim=True).clamp(min=1e-7)
    np.save(job["out"], torch.stack([one.amax(0)[0, 0].detach() for one in (levels, scaled)]).numpy())
    return {"box": box.clip(0, 1).tolist(), "label": network.names[channel], "score": score}


def rate(file: str, job: dict) -> dict:
    """The library's `predict` with pictures of its `topk` best predictions, the first image twice to warm up. Each is a call of its own,
    as it takes folders, too; a batch is slower on CPUs."""
    model = opened(file)
    network = model.model.float().eval()
    explained = []
    for name in job["images"]:
        images = detector_reference.samples(Image.open(name))
        logits, boxes = predicted(network, images)
        best = logits[0].detach().amax(0).topk(job["topk"]).indices
        explained.append(
            [
                {"label": network.names[int(logits[0, :, one].argmax())], "box": boxes[0, one].detach().clip(0, 1).tolist()}
                for one in best.tolist()
            ]
        )
    with tempfile.TemporaryDirectory() as folder:
        draw = {"visualize": True, "conf": 0.0, "project": folder, "verbose": False, "imgsz": job["side"], "device": "cpu"}
        model.predict(job["images"][0], **draw)
        begun = time.perf_counter()
        for name in job["images"]:
            model.predict(name, **draw)
        seconds = time.perf_counter() - begun
        num_drawn = sum(1 for path in Path(folder).rglob("*") if path.is_file())
    return {"images_per_s": len(job["images"]) / seconds, "explained": explained, "num_drawn": num_drawn}


def logits_of(network, raw) -> torch.Tensor:
    """Class logits [N, K, Q] of the branch that the head decides by."""
    if isinstance(raw, dict):
        return raw.get("one2one" if network.model[-1].end2end else "one2many", raw)["scores"]
    return raw[1][-1].transpose(1, 2)


def best_of(network, images) -> tuple[int, torch.Tensor, float]:
    """(class, box in fractions of the image, logit) of the likeliest prediction."""
    with torch.no_grad():
        results, raw = network(images)
        logits = logits_of(network, raw)
        if getattr(network.model[-1], "end2end", False):
            found = plain(results)[0]
            found = found[found[:, 4].argmax()]
            box, channel = found[:4] / images.shape[-1], int(found[5])
        else:
            boxes = predicted(network, images)[1][0]
            best = int(logits[0].amax(0).argmax())
            box, channel = boxes[best], int(logits[0, :, best].argmax())
    return channel, box, float(logits[0, channel].max())


def predicted(network, images) -> tuple[torch.Tensor, torch.Tensor]:
    """(class logits [1, K, Q], boxes [1, Q, 4] in fractions of the image)."""
    results, raw = network(images)
    if isinstance(raw, dict):
        height, width = images.shape[-2:]
        boxes = xywh2xyxy(plain(results)[:, :4].transpose(1, 2)) / torch.tensor([width, height, width, height])
        return raw.get("one2many", raw)["scores"], boxes
    boxes, logits = raw[0], raw[1]
    return logits[-1].transpose(1, 2), xywh2xyxy(boxes[-1])


def compute(role: str, *arguments: str) -> dict:
    if role == "outputs":
        return outputs(arguments[-1], "-e" in arguments, "-pf" in arguments)
    if role == "save":
        return save(*arguments[-2:], is_calm="-c" in arguments, is_free="-pf" in arguments)
    roles = {"own": own, "rate": rate, "layercam": layercam}
    return roles[role](arguments[0], json.loads(Path(arguments[1]).read_text()))


if __name__ == "__main__":
    detector_reference.answer(compute)
