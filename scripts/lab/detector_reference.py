"""What the references of detectors' own libraries share."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

import numpy as np
from PIL import Image
from pytorch_grad_cam.utils.image import scale_cam_image

import torch


def answer(compute: Callable[..., dict]) -> None:
    """Prints what `compute` gives for the arguments of this process, as a line of JSON.

    With `serve` for an argument: for each line of standard input, a list of arguments, in a copy of this process that ends with it, as
    libraries change the process that they are at work in, and take seconds to load. A line `{"ended": CODE}` follows.
    """
    if sys.argv[1:] != ["serve"]:
        print(json.dumps(compute(*sys.argv[1:])))
        return
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                print(json.dumps(compute(*json.loads(line))))
                code = 0
            finally:
                if code:
                    traceback.print_exc(file=sys.stdout)
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"ended": code}), flush=True)


def samples(image: Image.Image) -> torch.Tensor:
    """[1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def layercam(
    network, levels: list, predict: Callable[[], tuple], images: torch.Tensor, job: dict, *, is_softmax: bool = False
) -> dict:
    """The map of the predictions that boxes mean: LayerCAM of each level that the head is given, scaled by itself, and the largest
    value at each pixel. `predict` gives class logits [1, K, Q] and boxes [1, Q, 4] of `images`. Without boxes in the job, all boxes
    that the model predicts."""
    captured: list = []
    for level in levels:
        level.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    height, width = images.shape[-2:]
    if "wanted" not in job:
        with torch.no_grad():
            return {"boxes": predict()[1][0].tolist()}
    logits, boxes = predict()
    boxes = boxes.clip(0, 1)  # as libraries cut off what lies beside the image
    meant = set()
    for wanted in torch.tensor(job["wanted"]):
        low, high = torch.maximum(boxes[0, :, :2], wanted[:2]), torch.minimum(boxes[0, :, 2:], wanted[2:])
        both = (high - low).clip(0).prod(1)
        union = (boxes[0, :, 2:] - boxes[0, :, :2]).prod(1) + (wanted[2:] - wanted[:2]).prod() - both
        overlap = both / union
        chances = logits[0].softmax(0) if is_softmax else logits[0].sigmoid()
        chance = chances[job["channel"]].detach()
        meant.add(int(torch.where(overlap >= 0.5, overlap * chance, -1).argmax()))
    score = logits[0, job["channel"], sorted(meant)].sum()
    gradients = torch.autograd.grad(score, captured)
    maps = [
        scale_cam_image((activation * gradient.clip(0)).sum(1).clip(0).detach().numpy(), (width, height))[0]
        for activation, gradient in zip(captured, gradients, strict=True)
    ]
    np.save(job["out"], np.max([scale_cam_image(one[None])[0] for one in maps], axis=0))
    return {"score": float(score), "meant": sorted(meant), "largest": [float(one.max()) for one in maps]}
