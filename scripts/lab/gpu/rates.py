"""The device in plain PyTorch, a process of its own: `rates.py ROLE JOB.json`, one JSON object on the last line.

rates       what the device itself can do: matrix products, copies, and the network in plain PyTorch, phase by phase
compiled    the network in PyTorch with torch.compile
hog         holds device memory until its standard input is closed
"""

from __future__ import annotations

import copy
import json
import sys
import time

from twin import CUDA, DEVICE, JOB, tf32, timed, wait

import torch


def segmentation_model():
    """The benchmark's network with random weights; their values do not change the time. Batch norms folded by choice."""
    import torchvision
    from logits import Logits

    torch.manual_seed(0)
    build = getattr(torchvision.models.segmentation, JOB["twin_model"])
    model = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=None)
    return Logits(model.eval().requires_grad_(False))


def fold(module: torch.nn.Module) -> None:
    children = list(module.named_children())
    for (before, convolution), (name, norm) in zip(children, children[1:], strict=False):
        if isinstance(norm, torch.nn.BatchNorm2d) and isinstance(convolution, torch.nn.Conv2d):
            setattr(module, before, torch.nn.utils.fusion.fuse_conv_bn_eval(convolution, norm))
            setattr(module, name, torch.nn.Identity())
    for _, child in children:
        fold(child)


def tapped(model, paths: list[str]) -> list:
    captured = []

    def first(_module, _inputs, output):
        leaf = output.detach().requires_grad_(True)
        captured.append(leaf)
        return leaf

    for index, path in enumerate(paths):
        model.model.get_submodule(path).register_forward_hook(
            first if index == 0 else lambda _m, _i, output: captured.append(output)
        )
    return captured


def scaled(maps):
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (1e-7 + maps.amax((1, 2), keepdim=True))


def phases(model, captured, pixels, masks, repeats: int, precision: str, compiled=None) -> dict:
    """Milliseconds an image: forward, backward, heatmaps of the whole batch at once, one copy back to pinned memory."""
    run = compiled or model
    stamps = {"forward": [], "backward": [], "maps": [], "back": []}
    back = None
    for _ in range(repeats + 2):
        captured.clear()
        wait()
        at = [time.perf_counter()]

        def mark(at=at):
            wait()
            at.append(time.perf_counter())

        with torch.autocast(DEVICE.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
            logits = run(pixels)
        mark()
        score = (logits[:, 15].float() * masks).sum()
        gradients = torch.autograd.grad(score, captured)
        mark()
        maps = []
        for activation, gradient in zip(captured, gradients, strict=True):
            activation, gradient = activation.detach().float(), gradient.float()
            saliency = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu()
            maps.append(
                scaled(torch.nn.functional.interpolate(scaled(saliency)[:, None], pixels.shape[2:], mode="bilinear")[:, 0])
            )
        stacked = torch.stack(maps, 1)
        levels = (stacked * 255 + 0.5).to(torch.uint8)
        mark()
        if back is None:
            back = [torch.empty(x.shape, dtype=x.dtype, pin_memory=CUDA) for x in (stacked, levels)]
        for place, found in zip(back, (stacked, levels), strict=True):
            place.copy_(found, non_blocking=True)
        mark()
        for name, from_, to in zip(stamps, at, at[1:], strict=False):
            stamps[name].append(to - from_)
    middle = {name: 1000 * sorted(of[2:])[len(of[2:]) // 2] / len(pixels) for name, of in stamps.items()}
    return {
        **{f"{name}_ms": round(value, 3) for name, value in middle.items()},
        "images_per_s": round(1000 / sum(middle.values()), 2),
    }


def flops(model, captured, pixels, masks) -> float:
    """Floating-point operations of forward and backward of one image, two for a multiplication with its addition."""
    from torch.utils.flop_counter import FlopCounterMode

    captured.clear()
    with FlopCounterMode(display=False) as counter:
        logits = model(pixels[:1])
        # The counter's hooks do not bear `autograd.grad` of leaves.
        (logits[:, 15].float() * masks[:1]).sum().backward(inputs=captured[:1])
    return float(counter.get_total_flops())


def rates() -> dict:
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "threads": torch.get_num_threads(),
    }
    if CUDA:
        result["cudnn"] = torch.backends.cudnn.version()
    side = JOB["matmul_side"]
    for name, kind, allow in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
        ("fp64", torch.float64, False),
    ):
        if name == "tf32" and not CUDA:
            continue
        tf32(allow)
        a, b = torch.randn(side, side, device=DEVICE).to(kind), torch.randn(side, side, device=DEVICE).to(kind)
        result[f"matmul_{name}_tflops"] = round(2 * side**3 / timed(lambda a=a, b=b: a @ b, 5) / 1e12, 2)
        del a, b
    tf32(False)
    if CUDA:
        host = torch.empty(1 << 26, dtype=torch.float32)
        pinned, there = host.pin_memory(), torch.empty(1 << 26, dtype=torch.float32, device=DEVICE)
        gigabytes = host.numel() * 4 / 1e9
        result["copy_gb_per_s"] = {
            "pageable to device": round(gigabytes / timed(lambda: there.copy_(host), 3), 1),
            "pinned to device": round(gigabytes / timed(lambda: there.copy_(pinned, non_blocking=True), 3), 1),
            "device to pageable": round(gigabytes / timed(lambda: host.copy_(there), 3), 1),
            "device to new pageable": round(gigabytes / timed(lambda: there.to("cpu"), 3), 1),
            "device to pinned": round(gigabytes / timed(lambda: pinned.copy_(there, non_blocking=True), 3), 1),
            "host to host": round(gigabytes / timed(lambda: host.clone(), 3), 1),
        }
        del host, pinned, there
    paths = JOB["layers"]
    height, width = JOB["input"]
    plain = segmentation_model()
    folded = copy.deepcopy(plain)
    fold(folded)
    rows = []
    counted = None
    for batch, precision, benchmark, layout, model in JOB["phases"]:
        tf32(precision == "tf32")
        torch.backends.cudnn.benchmark = benchmark
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        row = {"batch": batch, "precision": precision, "benchmark": benchmark, "layout": layout, "folded": model == "folded"}
        try:
            net = copy.deepcopy(folded if model == "folded" else plain).to(DEVICE, memory_format=form)
            captured = tapped(net, paths)
            pixels = torch.randn(batch, 3, height, width, device=DEVICE).contiguous(memory_format=form)
            masks = (torch.rand(batch, height, width, device=DEVICE) > 0.7).float()
            if counted is None:
                counted = result["flops_per_image"] = flops(net, captured, pixels, masks)
            row |= phases(net, captured, pixels, masks, JOB["phase_repeats"], precision)
            row["tflops"] = round(counted / (row["forward_ms"] + row["backward_ms"]) / 1e9, 2)
            if CUDA:
                row["gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            del net, captured, pixels, masks
        except Exception as error:  # noqa: BLE001 - what fails is a result too
            row["error"] = str(error).splitlines()[0][:200]
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        rows.append(row)
        # What there is if time runs out.
        print(json.dumps({**result, "phases": rows}), flush=True)
    return result | {"phases": rows}


def compiled() -> dict:
    model = segmentation_model()
    fold(model)
    model = model.to(DEVICE, memory_format=torch.channels_last)
    captured = tapped(model, JOB["layers"])
    height, width = JOB["input"]
    batch, rows = JOB["compile_batch"], {}
    pixels = torch.randn(batch, 3, height, width, device=DEVICE).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(batch, height, width, device=DEVICE) > 0.7).float()

    class WithTaps(torch.nn.Module):
        """Hooks become outputs: what is compiled is one graph."""

        def forward(self, x):
            captured.clear()
            logits = model(x)
            return logits, *captured

    torch.backends.cudnn.benchmark = True
    start = time.perf_counter()
    graph = torch.compile(WithTaps())
    stamps = []
    for _ in range(JOB["phase_repeats"] + 3):
        wait()
        at = time.perf_counter()
        with torch.autocast(DEVICE.split(":")[0], torch.bfloat16):
            logits, *taps = graph(pixels)
        torch.autograd.grad((logits[:, 15].float() * masks).sum(), taps)
        wait()
        stamps.append(time.perf_counter() - at)
    rows["warm_s"] = round(sum(stamps[:3]), 1)
    rows["forward_and_backward_ms"] = round(1000 * sorted(stamps[3:])[len(stamps[3:]) // 2] / batch, 3)
    rows["batch"], rows["whole_s"] = batch, round(time.perf_counter() - start, 1)
    return rows


def hog() -> dict:
    free, total = torch.cuda.mem_get_info()
    take = free - int(JOB["leave_gib"] * 2**30)
    held = []
    while take > 0:
        piece = min(take, 4 << 30)
        held.append(torch.empty(piece, dtype=torch.uint8, device=DEVICE))
        take -= piece
    torch.cuda.synchronize()
    print(json.dumps({"ready": True, "free_gib": torch.cuda.mem_get_info()[0] / 2**30, "total_gib": total / 2**30}), flush=True)
    sys.stdin.read()
    return {}


if __name__ == "__main__":
    print(json.dumps({"rates": rates, "compiled": compiled, "hog": hog}[sys.argv[1]]()), flush=True)
