"""Methods at the image itself beside Captum's: rows of `parity_table.py`.

Captum gives attributions of every channel; they become a map as the methods' files say. Guided backpropagation is compared with Captum's,
which is another implementation than pytorch_grad_cam's. RISE is not in Captum: tests/python/test_image_methods.py has it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from captum.attr import GuidedBackprop, IntegratedGradients, NoiseTunnel, Occlusion, Saliency

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import image_reference as own
import parity

# As small as they may be: occlusion asks about each place.
CASES = {
    "torchvision:resnet18": ((96, 112), own.METHODS),
    "torchvision:vgg16": ((64, 64), own.METHODS),
    "torchvision:mobilenet_v3_small": ((96, 96), own.METHODS),
    "torchvision:densenet121": ((96, 96), own.METHODS),
    "torchvision:convnext_tiny": ((96, 96), tuple(set(own.METHODS) - set(own.GUIDED))),
    "timm:deit_tiny_patch16_224": ((224, 224), tuple(set(own.METHODS) - set(own.GUIDED))),
}
LAYERS = {"torchvision:resnet18": "layer4", "torchvision:vgg16": "features.30", "torchvision:mobilenet_v3_small": "features.12"}
LAYERS["torchvision:densenet121"] = "features.denseblock4"
LAYERS["torchvision:convnext_tiny"] = "features.7"
LAYERS["timm:deit_tiny_patch16_224"] = "blocks.11.norm1"


def of_modules(name: str, model: torch.nn.Module) -> torch.nn.Module:
    """The network with every ReLU as a module: Captum hooks modules, and DenseNet's last ReLU is a function."""
    if name != "torchvision:densenet121":
        return model
    parts = {"relu": torch.nn.ReLU(), "pool": torch.nn.AdaptiveAvgPool2d(1), "flatten": torch.nn.Flatten()}
    return torch.nn.Sequential(OrderedDict(features=model.features, **parts, classifier=model.classifier)).eval()


def captum_map(method: str, model, image: torch.Tensor, channel: int, layer) -> torch.Tensor:
    """[H, W], by Captum."""
    if method == "saliency":
        return Saliency(model).attribute(image, target=channel)[0].amax(0)
    if method == "smoothgrad":
        # Captum draws its noise itself: here it is given none, and the mean is taken of the images that camflow takes.
        noisy = own.noisy(image, "input.0", 25)
        tunnel, options = NoiseTunnel(Saliency(model)), {"nt_samples": 1, "stdevs": 0.0, "abs": False}
        # As many at once as camflow takes at most: other batches round otherwise, and a ReLU that switches is seen.
        found = [tunnel.attribute(some, target=channel, **options) for some in noisy.split(8)]
        return torch.cat(found).mean(0).abs().sum(0)
    if method == "integrated-gradients":
        start = own.baseline(image, "black")
        options = {"n_steps": 50, "method": "gausslegendre", "internal_batch_size": 8}
        return IntegratedGradients(model).attribute(image, start, target=channel, **options)[0].sum(0)
    if method == "guided-backprop":
        return GuidedBackprop(model).attribute(image, target=channel)[0].abs().amax(0)
    if method == "guided-gradcam":
        # Captum's product has the layer's map as it is; scaled and upsampled otherwise, it is made of the parts here.
        return GuidedBackprop(model).attribute(image, target=channel)[0].abs().amax(0) * own.coarse(model, image, channel, layer)
    side = min(image.shape[2:]) // 8
    stride = (side + 1) // 2
    options = {"sliding_window_shapes": (image.shape[1], side, side), "strides": (image.shape[1], stride, stride)}
    return Occlusion(model).attribute(image, target=channel, perturbations_per_eval=16, **options)[0].mean(0)


def rows(binary: Path, models: Path, chosen: Callable[[str], bool]) -> Iterator[parity.Row]:
    """Of the models that are chosen; their archives are in that folder, or made."""
    for name, (size, methods) in CASES.items():
        if not chosen(name):
            continue
        case = parity.Case(name, (LAYERS[name],), size)
        archive = parity.exported(case, models)
        model = of_modules(name, parity.network(name, archive)).requires_grad_(True)
        image = parity.picture(*size, seed=sum(map(ord, name)))
        with torch.no_grad():
            channel = int(model(image)[0].argmax())
        asked = [method for method in methods if method != "rise"]
        found = parity.camflow_maps(binary, archive, case, case.layers, image, None, channel, asked, ["--exact"])
        for method in asked:
            label = case.layers[0] if method == "guided-gradcam" else "image"
            wanted = captum_map(method, model, image.clone(), channel, model.get_submodule(LAYERS[name])).detach()
            yield parity.beside("Captum", name, method, found[method, label], own.heatmap(wanted))
