"""Any model: outputs, activations and gradients of `examples/trace.rs` are those of PyTorch's hooks and autograd.

Every model runs at other shapes than the one it was exported at. Nothing is downloaded: weights are random, except those
of EfficientNet-Lite0, which a package carries. `pytest -s` prints the largest differences as a table.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WRAPPED = HERE / "wrapped_models.py"
ODD = HERE / "odd_models.py"
LITE0 = ROOT / "scripts" / "lab" / "efficientnet_lite0.py"
sys.path.insert(0, str(HERE))
import grad_cam_reference
import odd_models
import parity
from camflow import export as export_package
from camflow.export.cli import parse

RANDOM = ("--weights", "none", "--warm-batchnorm", "2")
CONV, ATTENTION = 1e-5, 1e-4  # of the largest value; attention sums in another order per batch size


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, modules of it from shallow to deep, the size of its export's example, the sizes that it is run at."""

    reference: str
    layers: str
    example: str | None = None
    sizes: tuple[tuple[int, int, int], ...] = ((1, 75, 101), (3, 96, 64))
    tolerance: float = CONV

    def __str__(self):
        return self.reference.rpartition("/")[2]


# Of a model whose size is fixed, only the batch can differ from the example.
FIXED_224 = ((1, 224, 224), (3, 224, 224))
CASES = [
    Case("torchvision:resnet18", "bn1 layer1.0.relu@1 layer2 layer3.1.bn2 layer4", "64x96"),
    Case("torchvision:resnet50", "conv1 layer1.2.bn3 layer3.0.downsample layer4", "64x96"),
    Case("torchvision:vgg16", "features.0 features.12 features.23 features.29 classifier.0", "64x96"),
    Case(
        "torchvision:densenet121", "features.norm0 features.denseblock2 features.denseblock3.denselayer9.conv1 features", "64x96"
    ),
    Case("torchvision:mobilenet_v3_small", "features.0 features.4.block.1.0 features.7.block.2 features.12", "96x128"),
    Case("torchvision:efficientnet_b0", "features.0 features.3.1 features.5.0.block.2.scale_activation features.8", "96x128"),
    Case("torchvision:convnext_tiny", "features.0.1 features.1.2.block.2 features.3 features.7.2", "96x128"),
    Case(
        "torchvision:swin_t",
        "features.1.1.norm1 features.3.1 features.5.5.attn features.7.1",
        "96x128",
        ((1, 96, 128), (3, 96, 128)),
        ATTENTION,
    ),
    Case(
        f"{WRAPPED}:vit_b_16",
        "conv_proj encoder.layers.encoder_layer_0.ln_1 encoder.layers.encoder_layer_6 encoder.layers.encoder_layer_11.ln_1",
        None,
        ((1, 96, 96), (3, 96, 96)),
        ATTENTION,
    ),
    Case(
        "torchvision:regnet_y_400mf", "stem trunk_output.block1 trunk_output.block3.block3-2.f.se trunk_output.block4", "96x128"
    ),
    Case(
        "torchvision:inception_v3",
        "Conv2d_2b_3x3 Mixed_5d Mixed_6c.branch7x7dbl_3 Mixed_7c",
        "107x139",
        ((1, 101, 123), (3, 96, 128)),
    ),
    Case("torchvision:deeplabv3_resnet50", "backbone.layer1 backbone.layer3 backbone.layer4 classifier.0.project", "64x96"),
    Case("torchvision:deeplabv3_resnet101", "backbone.layer1 backbone.layer3.11.bn3 backbone.layer4 classifier.0", "64x96"),
    Case("torchvision:deeplabv3_mobilenet_v3_large", "backbone.1 backbone.6.block.2 backbone.16 classifier.0.convs.2", "96x128"),
    Case("torchvision:fcn_resnet50", "backbone.layer2 backbone.layer3 backbone.layer4 classifier.0", "64x96"),
    Case(
        "torchvision:lraspp_mobilenet_v3_large",
        "backbone.3 backbone.6 backbone.16 classifier.scale classifier.high_classifier",
        "96x128",
    ),
    Case("timm:deit_tiny_patch16_224", "patch_embed blocks.0.norm1 blocks.5 blocks.11.norm1", None, FIXED_224, ATTENTION),
    Case(
        "timm:vit_small_patch16_224",
        "patch_embed blocks.3.attn.proj blocks.8.mlp.fc1 blocks.11.norm1",
        None,
        FIXED_224,
        ATTENTION,
    ),
    Case(
        "timm:swin_tiny_patch4_window7_224",
        "patch_embed layers.0.blocks.1.norm1 layers.2.blocks.5.attn.proj layers.3.blocks.1",
        None,
        FIXED_224,
        ATTENTION,
    ),
    Case("timm:efficientnet_lite0", "conv_stem blocks.1.1 blocks.4.2.bn2 blocks.6", "96x128"),
    Case("timm:convnext_tiny", "stem stages.0.blocks.1.norm stages.2.blocks.8 stages.3", "96x128"),
    Case(f"{WRAPPED}:timm_resnet50", "bn1 layer1 layer2.0.bn2 layer3 layer4"),
    Case(
        f"{WRAPPED}:segformer",
        "segformer.stages.0.patch_embeddings.proj segformer.stages.1.blocks.1 segformer.stages.2.blocks.0.layernorm_before "
        "segformer.stages.3 decode_head.activation",
        None,
        ((1, 96, 128), (3, 107, 83)),
        ATTENTION,
    ),
    Case(
        f"{WRAPPED}:detr",
        "model.backbone.model.encoder.stages.1 model.backbone.model.encoder.stages.3 model.encoder.layers.0.self_attn_layer_norm "
        "model.encoder.layers.1 model.decoder.layers.1.encoder_attn_layer_norm",
        None,
        ((1, 128, 160), (3, 111, 149)),
        ATTENTION,
    ),
]


# Numbered layers as the exporter finds them: the last one, which is the default.
ALIASES = {
    "resnet18": (4, "layer4"),
    "vgg16": (5, "features.29"),
    "densenet121": (5, "features.norm5"),
    "mobilenet_v3_small": (5, "features.12"),
    "efficientnet_b0": (5, "features.8"),
    "swin_t": (4, "features.7.1.norm1"),
    "wrapped_models.py:vit_b_16": (12, "encoder.layers.encoder_layer_11.ln_1"),
    "regnet_y_400mf": (4, "trunk_output.block4"),
    "inception_v3": (7, "Mixed_7c"),
    "deeplabv3_resnet50": (4, "backbone.layer4"),
    "deeplabv3_resnet101": (4, "backbone.layer4"),
    "deeplabv3_mobilenet_v3_large": (4, "backbone.16"),
    "fcn_resnet50": (4, "backbone.layer4"),
    "lraspp_mobilenet_v3_large": (4, "backbone.16"),
    "deit_tiny_patch16_224": (12, "blocks.11.norm1"),
    "vit_small_patch16_224": (12, "blocks.11.norm1"),
    "swin_tiny_patch4_window7_224": (4, "layers.3.blocks.1.norm1"),
    "efficientnet_lite0": (5, "blocks.6"),
    "wrapped_models.py:segformer": (4, "segformer.stages.3"),
    "wrapped_models.py:detr": (2, "model.encoder.layers.1"),
}
ALIASES |= {"torchvision:resnet50": (4, "layer4"), "wrapped_models.py:timm_resnet50": (4, "layer4")}
# Both libraries have one.
ALIASES |= {"torchvision:convnext_tiny": (4, "features.7"), "timm:convnext_tiny": (4, "stages.3")}


@pytest.fixture(scope="session")
def exporter():
    return export_package


@pytest.fixture(scope="session")
def trace(tmp_path_factory):
    """Runs the example program: (output, {layer: activation}, {layer: gradient}), or its error message."""
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "examples" / "trace"
    if not program.is_file():
        pytest.fail(f"no {program}: run `cargo build --examples`")

    def run(model, pixels, layers=()):
        folder = tmp_path_factory.mktemp("trace")
        np.save(folder / "input.npy", pixels.numpy())
        command = [program, model, folder / "input.npy", folder / "out", *layers]
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            return done.stderr

        def read(name):
            return torch.from_numpy(np.load(folder / "out" / name))

        taken = ({layer: read(f"{layer}.{what}.npy") for layer in layers} for what in ("activation", "gradient"))
        return read("output.npy"), *taken

    return run


@pytest.fixture(scope="module")
def table():
    """Rows (model, output, activation, gradient), printed at the end."""
    rows = []
    yield rows
    print("\n\n| largest difference relative to the largest value | output | activation | gradient |\n| --- | --- | --- | --- |")
    for name, *worst in rows:
        print(f"| {name} | {' | '.join(f'{value:.1e}' for value in worst)} |")


@pytest.fixture(autouse=True)
def plain_attention():
    """Attention's fused path in eager mode differs from the operators that an archive holds."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def camflow_json(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(next(n for n in archive.namelist() if n.endswith("/extra/camflow.json"))))


def state_dict(path):
    """The weights in an archive; torch's own reader would rebuild the graph first, which takes its time."""
    kinds = {5: torch.int64, 7: torch.float32}
    state = {}
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        for name, entry in json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))["config"].items():
            meta = entry["tensor_meta"]
            storage = torch.frombuffer(
                bytearray(archive.read(f"{root}/data/weights/{entry['path_name']}")), dtype=kinds[meta["dtype"]]
            )
            sizes, strides = ([item["as_int"] for item in meta[key]] for key in ("sizes", "strides"))
            state[name] = storage.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
    return state


def score(output):
    """What examples/trace.rs differentiates."""
    weights = torch.cos(torch.arange(output.numel(), dtype=torch.float64) * 0.1)
    return (output * weights.to(output.dtype).view_as(output)).sum()


def reference(model, pixels, layers, primary):
    """Output, activations and gradients as hooks and autograd give them. `path` is a module's first call, `path@1` its second."""
    activations, gradients, handles, num_calls = {}, {}, [], {}

    def hook(path):
        def record(module, inputs, output):
            key = f"{path}@{num_calls.get(path, 0)}"
            num_calls[path] = num_calls.get(path, 0) + 1
            activations[key] = output.detach().clone()  # later operators may overwrite it
            output.register_hook(lambda gradient: gradients.update({key: gradient.clone()}))

        return record

    for path in {layer.partition("@")[0] for layer in layers}:
        handles.append(model.get_submodule(path).register_forward_hook(hook(path)))
    try:
        # something has to require a gradient for there to be any; a copy, because some models write to their input
        output = torch.utils._pytree.tree_leaves(model(pixels.clone().requires_grad_() * 1))[primary]
    finally:
        for handle in handles:
            handle.remove()
    score(output).backward()
    keys = {layer: layer if "@" in layer else f"{layer}@0" for layer in layers}
    return output.detach(), *({layer: taken[key] for layer, key in keys.items()} for taken in (activations, gradients))


def image(batch, height, width):
    """Smooth noise, as images are smooth."""
    generator = torch.Generator().manual_seed(batch * 100000 + height * 100 + width)
    coarse = torch.randn(batch, 3, max(height // 8, 2), max(width // 8, 2), generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (pixels + 0.1 * torch.randn(batch, 3, height, width, generator=generator)).contiguous()


def difference(what, ours, theirs):
    """Largest difference relative to the largest value, which must be there."""
    assert ours.shape == theirs.shape, f"{what}: {list(ours.shape)}, PyTorch has {list(theirs.shape)}"
    assert torch.isfinite(theirs).all() and theirs.abs().max() > 0, f"{what} is empty in PyTorch itself"
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def compare(found, wanted, tolerance):
    """The largest differences of output, activations and gradients; fails where they are too large."""
    assert not isinstance(found, str), found
    worst = [difference("output", found[0], wanted[0]), 0.0, 0.0]
    for index, what in ((1, "activation"), (2, "gradient")):
        for layer, tensor in wanted[index].items():
            relative = difference(f"{what} of {layer}", found[index][layer], tensor)
            assert relative <= tolerance, f"{what} of {layer} differs by {relative:.1e}"
            worst[index] = max(worst[index], relative)
    assert worst[0] <= tolerance, f"the output differs by {worst[0]:.1e}"
    return worst


def exported(case, export):
    own = (WRAPPED,) if str(WRAPPED) in case.reference else ()
    return export(case.reference, *RANDOM, *(("--size", case.example) if case.example else ()), inputs=own)


@pytest.fixture(scope="module")
def archives(export, request):
    """The archive of every case that is to be tested. Exporting keeps one core busy, so several are made at once."""
    chosen = [item.callspec.params["case"] for item in request.session.items if item.name.startswith("test_model_is_what")]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(map(str, chosen), pool.map(lambda case: exported(case, export), chosen), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_model_is_what_pytorch_computes(case, archives, exporter, trace, table):
    path = archives[str(case)]
    model = exporter.load_model(case.reference, "none").module
    model.load_state_dict(state_dict(path))
    meta, layers = camflow_json(path), case.layers.split()
    worst = [0.0, 0.0, 0.0]
    for shape in case.sizes:
        pixels = image(*shape)
        wanted = reference(model, pixels, layers, meta["primary_output"])
        found = compare(trace(path, pixels, layers), wanted, case.tolerance)
        worst = list(map(max, worst, found))
    table.append((str(case), *worst))


ODD_LAYERS = {
    "repeated": "first again again@1 again@2 same again.0@1 last",
    "numbers": "first scaled scaled.mix last",
    "tied": "first mix unmix last",
}


@pytest.mark.parametrize("name", odd_models.NAMES)
def test_odd_graph_is_what_pytorch_computes(name, exporter, trace, table, tmp_path):
    loaded = exporter.load_model(f"{ODD}:{name}", "none")
    meta = exporter.export(loaded, tmp_path / "odd.pt2")
    layers = ODD_LAYERS.get(name, "first last").split()
    worst = [0.0, 0.0, 0.0]
    free = {"bhw": ((1, 19, 23), (3, 26, 21)), "batch": ((1, 18, 22), (3, 18, 22))}
    for shape in free[meta["input"]["dynamic"]]:
        pixels = image(*shape)
        wanted = reference(loaded.module, pixels, layers, meta["primary_output"])
        found = trace(tmp_path / "odd.pt2", pixels, layers)
        worst = list(map(max, worst, compare(found, wanted, CONV)))
    table.append((name, *worst))


def test_the_first_call_of_a_shared_module_is_explained_as_by_pytorch_grad_cam(binary, camflow, exporter, tmp_path):
    archive = tmp_path / "shared.pt2"
    loaded = exporter.load_model(f"{ODD}:repeated", "none")
    meta = exporter.export(loaded, archive)
    case = parity.Case("repeated", ("again", "again@1", "again@2"), (24, 32), segmentation=True)
    pixels, mask = parity.picture(*case.size, seed=3), np.ones(case.size, np.uint8)
    ours = parity.camflow_maps(binary, archive, case, case.layers, pixels, mask, 2, ["gradcam"], ["--exact"])
    module = loaded.module.eval().requires_grad_(True)
    theirs = grad_cam_reference.reference_map(case, module, [module.again], pixels, mask, 2, "gradcam", eigen=False, aug=False)
    assert np.abs(ours["gradcam", "again"] - theirs).max() <= CONV
    assert all(np.abs(ours["gradcam", call] - theirs).max() > 0.01 for call in case.layers[1:])

    layer = next(layer for layer in meta["layers"] if layer["path"] == "again")
    assert layer["shape"] == [2, 6, *meta["input"]["example"][2:]]
    inspected = json.loads(camflow("inspect", archive, "--format", "json").stdout)
    assert {layer["path"]: layer["calls"] for layer in inspected["layers"]}["again"] == 3
    assert "called 3 times, `again@0` to `again@2`" in camflow("inspect", archive).stdout


def test_tokens_that_come_before_the_images_are_explained_as_those_behind_them(camflow, exporter, tmp_path):
    archive = tmp_path / "tokens.pt2"
    torch.manual_seed(1)
    module = odd_models.TokensFirst().eval()
    loaded = exporter.load_model(module, preprocess=PLAIN["preprocess"])
    meta = exporter.export(loaded, archive, size=(24, 32), static_size=True)
    layouts = {layer["path"]: layer["layout"] for layer in meta["layers"]}
    assert (layouts["first"], layouts["second"]) == ("tokens_first", "tokens")
    for seed in range(3):
        np.save(tmp_path / f"{seed}.npy", parity.picture(24, 32, seed).numpy())
    maps = {}
    done = camflow(
        *("explain", *(tmp_path / f"{seed}.npy" for seed in range(3)), "--model", archive, "--class", "1", "--exact"),
        *("--layers", "first,second", "--method", "gradcam,layercam,ablationcam,scorecam,eigencam", "--out", tmp_path / "maps"),
        *("--format", "json", "--device", "cpu"),
    )
    for event in done.events:
        if event["event"] == "heatmap":
            array = np.load(next(file for file in event["files"] if file.endswith(".npy")))
            maps.setdefault(event["layer"], {})[event["method"], event["input"]] = array
    assert len(maps["first"]) == 15 and any(array.any() for array in maps["first"].values())
    for key, array in maps["first"].items():
        assert np.abs(array - maps["second"][key]).max() <= CONV, key

    refused = camflow("explain", tmp_path / "0.npy", "--model", archive, "--class", "1", "--layers", "head", code=2).stderr
    assert "module `head` is no layer" in refused and "`second`" in refused and "--layout head=" in refused


PLAIN = {
    "camflow": 1,
    "name": "plain",
    "input": {"example": [2, 3, 18, 22], "dynamic": "bhw"},
    "preprocess": [{"op": "normalize", "mean": [0.0] * 3, "std": [1.0] * 3}],
    "outputs": [None],
}


def save_plainly(model, path, meta=PLAIN):
    """An archive without the exporter, which would make every weight f32 and refuse what camflow cannot run."""
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (torch.randn(*meta["input"]["example"]),), dynamic_shapes=({0: free, 2: free, 3: free},))
    torch.export.save(program, path, extra_files={"camflow.json": json.dumps(meta)})


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_weights_of_other_types_stay_what_they_are(kind, trace, tmp_path):
    class Mixed(odd_models.Between):
        def forward(self, x):
            return self.last(self.first(x.to(kind)).relu()).float()

    torch.manual_seed(3)
    model = Mixed().to(kind).requires_grad_(False)
    save_plainly(model, tmp_path / "mixed.pt2")
    pixels = image(1, 19, 23)
    wanted = reference(model, pixels, ["first", "last"], 0)
    assert wanted[1]["first"].dtype == kind
    compare(trace(tmp_path / "mixed.pt2", pixels, ["first", "last"]), wanted, CONV)


class Branches(odd_models.Between):
    def odd(self, x):
        return torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t.sin(), (x,))


class ForeignOperator(odd_models.Between):
    def odd(self, x):
        import torchvision

        return torchvision.ops.roi_align(x, torch.tensor([[0.0, 0.0, 0.0, 9.0, 9.0]]), (3, 3)) + x.mean()


class ComplexNumber(odd_models.Between):
    def odd(self, x):
        return (x * 1j).imag


@pytest.mark.parametrize(
    "kind, node, reason",
    [
        (Branches, "node `cond`", "higher-order operator `cond` is not supported"),
        # torchvision may ask for the version of CUDA first, which is an operator of its own as well
        (ForeignOperator, "node `roi_align`", "operator `torch.ops.torchvision."),
        (ComplexNumber, "node `mul`", "an argument of kind `as_complex` is not supported"),
    ],
    ids=["branches", "foreign operator", "complex number"],
)
def test_what_cannot_run_is_refused_by_name(kind, node, reason, trace, tmp_path):
    save_plainly(kind().requires_grad_(False), tmp_path / "odd.pt2")
    said = trace(tmp_path / "odd.pt2", image(1, 18, 22), ["first"])
    assert isinstance(said, str), "it ran"
    heading, found = said.strip().split(" cannot be used:")
    # One problem stands behind the heading, several have lines of their own.
    problems = [line.strip() for line in found.splitlines() if line.strip() and not line.startswith("hint: ")]
    assert heading.startswith("error: model"), said
    assert any(problem.startswith(node) for problem in problems), said
    assert all(reason in problem for problem in problems), f"follow-up problems:\n{said}"


@pytest.mark.parametrize("kind, name", [(Branches, "cond"), (ForeignOperator, "torchvision::roi_align")])
def test_the_exporter_refuses_what_camflow_cannot_run(kind, name, exporter, tmp_path):
    loaded = exporter.LoadedModel(
        kind().eval().requires_grad_(False), "odd", "test", {"example": [18, 22], "preprocess": odd_models.PLAIN}
    )
    with pytest.raises(exporter.ExportError, match=f"`{name}`"):
        exporter.export(loaded, tmp_path / "odd.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbered_layers(case, export):
    meta = camflow_json(exported(case, export))
    count, last = ALIASES[str(case) if str(case) in ALIASES else str(case).rpartition(":")[2]]
    assert list(meta["aliases"]) == [str(number) for number in range(1, count + 1)]
    assert meta["aliases"][str(count)] == last and meta["default_layers"] == [str(count)]
    layers = {layer["path"]: layer for layer in meta["layers"]}
    assert set(meta["aliases"].values()) <= set(layers), "an alias for what is no layer"
    areas = [np.prod(spatial(layers[path], meta)) for path in meta["aliases"].values()]
    assert areas == sorted(areas, reverse=True), "numbers go from fine to coarse"


def spatial(layer, meta):
    """Rows and columns of a layer at the example's size, as camflow.json gives them."""
    tokens = layer.get("tokens") or meta["tokens"]
    return {"nchw": layer["shape"][2:], "nhwc": layer["shape"][1:3]}.get(layer["layout"]) or tokens["grid"]


LAYOUTS = [
    (
        "swin_t",
        {"features.0": "nhwc", "features.5.5.norm1": "nhwc", "features.7": "nhwc", "features.0.0": "nchw", "permute": "nchw"},
    ),
    ("swin_tiny_patch4_window7_224", {"layers.0": "nhwc", "layers.3.blocks.1.norm1": "nhwc", "patch_embed.proj": "nchw"}),
    (
        "torchvision:convnext_tiny",
        {"features.7": "nchw", "features.7.2": "nchw", "features.7.2.block.2": "nhwc", "features.7.2.block.0": "nchw"},
    ),
    ("timm:convnext_tiny", {"stages.3": "nchw", "stages.3.blocks.1": "nchw", "stages.3.blocks.1.norm": "nhwc"}),
    (
        "vit_small_patch16_224",
        {"blocks.11.norm1": "tokens", "blocks.0": "tokens", "patch_embed": "tokens", "patch_embed.proj": "nchw"},
    ),
    ("segformer", {"segformer.stages.2": "nchw", "segformer.stages.2.blocks.0": "tokens", "decode_head.classifier": "nchw"}),
    ("detr", {"model.encoder.layers.1": "tokens", "model.input_projection": "nchw"}),
]


@pytest.mark.parametrize("name, wanted", LAYOUTS, ids=[name for name, _ in LAYOUTS])
def test_layouts(name, wanted, export):
    case = next(case for case in CASES if str(case).endswith(name))
    layers = {layer["path"]: layer["layout"] for layer in camflow_json(exported(case, export))["layers"]}
    assert {path: layers.get(path) for path in wanted} == wanted


@pytest.mark.parametrize("name, grid, prefix", [("deit_distilled", 6, 2), ("dinov2_registers", 8, 5)])
def test_tokens_before_the_patches_are_counted(name, grid, prefix, exporter, tmp_path):
    meta = exporter.export(exporter.load_model(f"{WRAPPED}:{name}", "none"), tmp_path / "vit.pt2")
    assert (meta["tokens"]["grid"], meta["tokens"]["prefix"]) == ([grid, grid], prefix)
    layers = {layer["path"]: layer for layer in meta["layers"]}
    assert meta["aliases"] == {"1": "blocks.0.norm1", "2": "blocks.1.norm1", "3": "blocks.2.norm1"}
    assert layers["blocks.2.norm1"]["layout"] == "tokens" and "tokens" not in layers["blocks.2.norm1"], "as the model says"
    assert layers["patch_embed"]["tokens"] == {"grid": [grid, grid], "prefix": 0}, "before the other tokens are put before"


def grid_at(tokens, height, width):
    """What camflow makes of a stride: `TokenInfo::grid_of`."""
    up = tokens["round"] == "ceil"
    return [-(-length // step) if up else length // step for length, step in zip((height, width), tokens["stride"], strict=True)]


def test_grids_of_tokens_follow_the_image(export, exporter):
    """SegFormer has a grid per stage, and its attention a coarser one; they are those of the maps that the model itself makes."""
    case = next(case for case in CASES if str(case).endswith("segformer"))
    layers = {layer["path"]: layer for layer in camflow_json(exported(case, export))["layers"]}
    model = exporter.load_model(case.reference, "none").module
    for height, width in ((107, 83), (65, 97)):
        pairs = [(f"segformer.stages.{stage}.layer_norm", f"segformer.stages.{stage}") for stage in range(4)]
        reduced = "segformer.stages.0.blocks.0.attention.sequence_reduction"
        _, activations, _ = reference(model, image(1, height, width), [path for pair in pairs for path in pair] + [reduced], 0)
        for tokens, stage in pairs:
            rows, columns = grid_at(layers[tokens]["tokens"], height, width)
            assert torch.equal(activations[tokens].reshape(1, rows, columns, -1).permute(0, 3, 1, 2), activations[stage]), tokens
        assert np.prod(grid_at(layers[reduced]["tokens"], height, width)) == activations[reduced].shape[1]
    rounding = {layers[path]["tokens"]["round"] for path in ("segformer.stages.0.layer_norm", reduced)}
    assert rounding == {"ceil", "floor"}, "a padded convolution, and one without padding"


def test_a_detectors_queries_are_no_layer(export, exporter):
    case = next(case for case in CASES if str(case).endswith("detr"))
    meta = camflow_json(exported(case, export))
    layers = {layer["path"]: layer for layer in meta["layers"]}
    assert meta["outputs"] == ["logits", "pred_boxes"] and meta["primary_output"] == 0 and meta["task"] == "detection"
    assert not [path for path in layers if path.startswith(("class_labels", "bbox_predictor", "model.decoder.layernorm"))]
    tokens = layers["model.encoder.layers.1"]["tokens"]
    model = exporter.load_model(case.reference, "none").module
    _, activations, _ = reference(model, image(1, 111, 149), ["model.input_projection"], 0)
    assert grid_at(tokens, 111, 149) == list(activations["model.input_projection"].shape[2:])


def test_layouts_can_be_given(exporter, tmp_path):
    arguments = ["m.py:f", "--layout", "last=nhwc", "--layout", "first=tokens:3x2+4", "--layout", "a.b=tokens"]
    layouts = dict(parse(arguments).layout)
    assert layouts["first"] == {"layout": "tokens", "tokens": {"grid": [3, 2], "prefix": 4}} and layouts.pop("a.b") == {
        "layout": "tokens"
    }
    loaded = exporter.load_model(f"{ODD}:tied", "none")
    layers = {layer["path"]: layer for layer in exporter.export(loaded, tmp_path / "a.pt2", layouts=layouts)["layers"]}
    assert layers["last"]["layout"] == "nhwc" and layers["first"]["tokens"]["grid"] == [3, 2]
    with pytest.raises(exporter.ExportError, match="no module `furst`"):
        exporter.export(loaded, tmp_path / "b.pt2", layouts={"furst": {"layout": "nchw"}})
    with pytest.raises(SystemExit):
        parse(["m.py:f", "--layout", "last=upside-down"])
    loaded.metadata |= {
        "layers": [{"path": "mix", "layout": "tokens", "tokens": {"grid": [5, 5], "prefix": 1}}],
        "aliases": {"1": "mix"},
    }
    (layer,) = exporter.export(loaded, tmp_path / "c.pt2")["layers"]
    assert (layer["path"], layer["layout"], layer["tokens"]) == ("mix", "tokens", {"grid": [5, 5], "prefix": 1})


@pytest.fixture(scope="module")
def lite0(export):
    return export(f"{LITE0}:efficientnet_lite0", inputs=(LITE0,))


@pytest.mark.parametrize(
    "photo, classes",
    [
        ("chelsea", ["tabby, tabby cat", "tiger cat", "Egyptian cat"]),
        ("coffee", ["espresso", "coffee mug", "cup"]),
        ("rocket", ["missile", "projectile, missile", "space shuttle"]),
    ],
)
def test_a_trained_classifier_knows_real_photographs(photo, classes, lite0, exporter, trace):
    import skimage.data
    from PIL import Image
    from test_export import apply

    meta = camflow_json(lite0)
    pixels = apply(meta["preprocess"], Image.fromarray(getattr(skimage.data, photo)()))[None]
    assert pixels.shape == (1, 3, 224, 224)
    model = exporter.load_model(f"{LITE0}:efficientnet_lite0").module
    layers = ["_blocks.4", "_blocks.15", "_swish"]
    found = trace(lite0, pixels, layers)
    compare(found, reference(model, pixels, layers, 0), CONV)
    top = meta["classes"][str(found[0].argmax().item())]
    assert top in classes
    assert meta["default_layers"] == ["6"] and meta["aliases"]["6"] == "_swish@1"
