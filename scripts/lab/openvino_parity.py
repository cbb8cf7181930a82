"""Recipro-CAM beside OpenVINO XAI's, for the networks that it takes: rows of `parity_table.py`. Its branch stands behind the last layer
with places; maps are of that layer's size, scaled to [0, 1].
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino
from openvino_xai import Method, Task, insert_xai

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import parity

SIZE = (96, 96)
LAYERS = {
    "torchvision:resnet18": "layer4",
    "torchvision:resnet50": "layer4",
    "torchvision:densenet121": "features",
    "torchvision:mobilenet_v3_small": "features.12",
    "torchvision:efficientnet_b0": "features.8",
    "torchvision:resnext50_32x4d": "layer4",
}


def theirs(network: torch.nn.Module, pixels: torch.Tensor, channel: int) -> np.ndarray:
    """[H', W'] of a class."""
    converted = openvino.convert_model(network, example_input=pixels, input=list(pixels.shape))
    explained = insert_xai(converted, task=Task.CLASSIFICATION, explain_method=Method.RECIPROCAM, embed_scaling=False)
    # Where a processor has bfloat16, it would compute in that.
    compiled = openvino.Core().compile_model(explained, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    saliency = compiled(pixels.numpy())["saliency_map"][0, channel]
    return (saliency - saliency.min()) / (saliency.max() - saliency.min())


def rows(binary: Path, models: Path, chosen: Callable[[str], bool]) -> Iterator[parity.Row]:
    """Of the models that are chosen; their archives are in that folder, or made."""
    for name, layer in LAYERS.items():
        if not chosen(name):
            continue
        case = parity.Case(name, (layer,), SIZE)
        archive = parity.exported(case, models)
        network = parity.network(name, archive).requires_grad_(False)
        pixels = parity.picture(*SIZE, seed=sum(map(ord, name)))
        with torch.no_grad():
            channel = int(network(pixels)[0].argmax())
        flags = ["--exact", "--size", "layer"]
        found = parity.camflow_maps(binary, archive, case, (layer,), pixels, None, channel, ["reciprocam"], flags)
        yield parity.beside("OpenVINO XAI", name, "reciprocam", found["reciprocam", layer], theirs(network, pixels, channel))
