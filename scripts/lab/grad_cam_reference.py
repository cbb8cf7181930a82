"""pytorch_grad_cam's heatmaps, as `parity.py` asks for them. Tests keep what this gives for as long as this file stays the same."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytorch_grad_cam as reference
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, SemanticSegmentationTarget

import torch

if TYPE_CHECKING:
    from parity import Case

METHODS = {
    "gradcam": reference.GradCAM,
    "gradcam++": reference.GradCAMPlusPlus,
    "xgradcam": reference.XGradCAM,
    "layercam": reference.LayerCAM,
    "hirescam": reference.HiResCAM,
    "gradcam-elementwise": reference.GradCAMElementWise,
    "eigencam": reference.EigenCAM,
    "eigengradcam": reference.EigenGradCAM,
    "segeigencam": reference.SegEigenCAM,
    "scorecam": reference.ScoreCAM,
    "ablationcam": reference.AblationCAM,
    "fullgrad": reference.FullGrad,
    "kpcacam": reference.KPCA_CAM,
    "fem": reference.FEM,
    "shapleycam": reference.ShapleyCAM,
    "finercam": reference.FinerCAM,
    "refinecam": reference.RefineCAM,
}
PROBING = {"scorecam", "ablationcam"}
JOINING = {"refinecam"}  # one map of all layers; the reference takes its `eigen_smooth` for `aug_smooth`
REPEATS = 32  # pytorch_grad_cam's batch of its gradient-free methods


def turned(project):
    """The reference's projection with camflow's sign: the largest magnitude is positive."""

    def projected(activations, *arguments, **more):
        maps = project(activations, *arguments, **more)
        negative = np.abs(maps.min(axis=(1, 2))) > np.abs(maps.max(axis=(1, 2)))
        return np.where(negative[:, None, None], -maps, maps)

    return projected


@contextlib.contextmanager
def documented_sign():
    """Every module of the reference has imported the projection by name."""
    changed = []
    for name, module in list(sys.modules.items()):
        if name.startswith("pytorch_grad_cam.") and hasattr(module, "get_2d_projection"):
            changed.append((module, module.get_2d_projection))
            module.get_2d_projection = turned(module.get_2d_projection)
    try:
        yield
    finally:
        for module, project in changed:
            module.get_2d_projection = project


def as_nchw(case: Case):
    """pytorch_grad_cam's `reshape_transform` for the model's layout."""
    if case.layout == "nhwc":
        return lambda tensor: tensor.permute(0, 3, 1, 2)
    if case.layout == "tokens_first":
        return lambda tensor: tensor[case.prefix :].permute(1, 2, 0).reshape(tensor.shape[1], -1, *case.grid)
    if case.layout == "tokens":
        return lambda tensor: tensor[:, case.prefix :].reshape(len(tensor), *case.grid, -1).permute(0, 3, 1, 2)
    return None


def reference_map(case: Case, model, layers, pixels, mask, channel, method, eigen, aug) -> np.ndarray:
    """The heatmap f32 [H, W] of one image [1, 3, H, W]; `layers` are modules."""
    # FullGrad looks at convolutions, whatever the layers' layout.
    reshape = None if method == "fullgrad" else as_nchw(case)
    options = {"model": model, "target_layers": layers, "reshape_transform": reshape}
    if method == "ablationcam":
        layer = reference.AblationLayer() if case.layout == "nchw" else reference.AblationLayerVit()
        options.update(ablation_layer=layer, batch_size=REPEATS)
    if case.segmentation:
        with torch.no_grad():
            rows, columns = (torch.arange(side).numpy() for side in model(pixels).shape[2:])
        # By nearest neighbour to the output's size.
        small = mask[(rows * mask.shape[0] // len(rows))[:, None], columns * mask.shape[1] // len(columns)]
        target = SemanticSegmentationTarget(channel, small.astype(np.float32))
        target.mask = target.mask.to(pixels.dtype)
    else:
        target = ClassifierOutputTarget(channel)
    # Progress bars and notices of the reference.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.ExitStack() as ending:
        if method in JOINING:
            return METHODS[method](**options)(pixels.clone(), targets=[target], eigen_smooth=eigen)[0]
        cam = ending.enter_context(METHODS[method](**options))
        if method in PROBING:
            cam.batch_size = REPEATS
        if method == "finercam":
            return cam(pixels, targets=None, target_idx=channel, eigen_smooth=eigen)[0]
        found = cam(pixels.clone(), targets=[target], eigen_smooth=eigen, aug_smooth=aug)[0]
        if method == "shapleycam":
            # The reference detaches these in place when it ends, which PyTorch refuses where they are views.
            cam.activations_and_grads.activations, cam.activations_and_grads.gradients = [], []
        return found


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth noise (real images are smooth), f32 [1, 3, H, W], normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, height // 8, width // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.randn(1, 3, height, width, generator=generator)).contiguous()


def wanted_map(case: Case, network, pixels, mask, channel, layer, method, eigen, aug) -> np.ndarray:
    """The map of a layer by its path, of `all` or of `fused` ones, with the sign that camflow documents, and attention that has the second
    derivative that is asked for."""
    paths = {"all": (), "fused": case.layers}.get(layer, (layer,))
    targets = [network.model.get_submodule(path) for path in paths]
    attention = contextlib.nullcontext()
    if method == "shapleycam":
        attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with documented_sign(), attention:
        return reference_map(case, network, targets, pixels, mask, channel, method, eigen, aug)
