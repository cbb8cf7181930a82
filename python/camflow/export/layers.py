"""The layers of a model: which modules can be drawn over the image, how they lie over it, how a person counts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .messages import first_line, say

if TYPE_CHECKING:
    from torch import Tensor, nn

# Module path -> shape of the output of its first call, None where that is not one tensor of floats.
Shapes = dict[str, list[int] | None]
# An entry of `layers` in camflow.json: path, type, shape, layout, and maybe tokens.
Layer = dict[str, Any]
# How tokens lie over the image: grid [rows, columns], how many come before it, and maybe patch, stride and rounding.
Tokens = dict[str, Any]
Size = tuple[int, int]

# The norms before the attention of each block, as libraries name them.
FIRST_NORM = r"(?:norm1|ln_1|layernorm_before|layer_norm_?1)"
BLOCK_NORMS = rf"(?:blocks|layers?|encoder_layers|resblocks)\.\w*?\d+\.{FIRST_NORM}"
# The same in blocks with another attention in each patch (Transformer in Transformer).
OUTER_NORMS = r"blocks\.\d+\.norm_out"


def observe(module: nn.Module, example: Tensor) -> tuple[Shapes, list[str], Any]:
    """One eager run with hooks: called modules in the order in which their first calls end, and which of them can bear a signature.

    Gives ({path: shape of the output tensor, or None}, [paths without signature], the output).
    """
    import torch

    shapes: Shapes = {}
    unfit: set[str] = set()
    handles: list[Any] = []

    def hook(path: str) -> Callable[..., None]:
        def record(mod: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = [value for value in (*args, *kwargs.values(), output) if not isinstance(value, str)]
            leaves = torch.utils._pytree.tree_leaves(given)
            if not all(leaf is None or isinstance(leaf, (torch.Tensor, bool)) for leaf in leaves):
                unfit.add(path)  # torch.export takes only these in a module's signature, and texts that are not in lists
            if path not in shapes:
                shapes[path] = list(output.shape) if isinstance(output, torch.Tensor) and output.is_floating_point() else None

        return record

    try:
        for path, mod in module.named_modules():
            handles.append(mod.register_forward_hook(hook(path), with_kwargs=True))
        with torch.no_grad():
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, sorted(unfit), output


def feeding(module: nn.Module, example: Tensor, pick: Callable[[Any], Tensor]) -> set[str] | None:
    """Paths of the modules whose output the output that `pick` takes has a gradient with respect to; None if it cannot be told.

    camflow takes gradients from any layer on, also behind `detach`, and through frozen weights; so does this.
    """
    import torch

    taken: dict[str, Tensor] = {}
    handles: list[Any] = []

    def hook(path: str) -> Callable[..., Tensor | None]:
        def take(mod: nn.Module, args: Any, output: Any) -> Tensor | None:
            if path in taken or not isinstance(output, torch.Tensor) or not output.is_floating_point():
                return None
            with torch.enable_grad():
                taken[path] = output if output.requires_grad else output.detach().requires_grad_()
                return taken[path].clone()  # what overwrites it later does so to the copy

        return take

    try:
        for path, mod in module.named_modules():
            if path:
                handles.append(mod.register_forward_hook(hook(path)))
        with torch.enable_grad():
            scores = pick(module(example.clone()))
            if not scores.requires_grad:
                return set()
            # of a mix of all channels: their sum is the same for every image behind a LayerNorm
            mix = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0), dtype=scores.dtype)
            found = torch.autograd.grad((scores * mix).sum(), list(taken.values()), allow_unused=True)
        return {path for path, gradient in zip(taken, found, strict=True) if gradient is not None and _is_of_places(gradient)}
    except Exception as error:  # noqa: BLE001  a model may raise anything, and camflow itself looks at the graph once more
        say(f"warning: which layers feed the output could not be told: {first_line(error)}")
        if "derivative" in str(error):
            say("gradcam and its kin cannot explain the model, eigencam and scorecam can")
        return None
    finally:
        for handle in handles:
            handle.remove()


def _is_of_places(gradient: Tensor) -> bool:
    """Whether a gradient comes back to more than the few tokens beside the image's own, as behind the last attention."""
    return gradient.ndim != 3 or bool((gradient.abs().sum(2) > 0).float().mean() > 0.5) or not gradient.any()


def output_keys(output: Any) -> tuple[list[str | None], list[Any]]:
    """([key or None], [leaf]) of a model's output, flattened in the order of the archive's outputs."""
    from torch.utils import _pytree

    import torch

    if isinstance(output, torch.Tensor):
        return [None], [output]
    pairs, _ = _pytree.tree_flatten_with_path(output)
    return [".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path) for path, _ in pairs], [
        leaf for _, leaf in pairs
    ]


def find_layers(module: nn.Module, shapes: Shapes, example: Sequence[int]) -> tuple[list[Layer], Tokens | None]:
    """([layer], tokens): every module whose output is one tensor that can be drawn over the image, with its layout.

    A spatial map has the image's aspect (to a pixel or so); that tells channels first from channels last. `tokens` is how
    the tokens of a plain vision transformer lie over the image; layers whose tokens lie otherwise carry their own.
    """
    import torch

    batch, _, height, width = example
    types = {path: type(mod).__name__ for path, mod in module.named_modules()}
    tokens: Tokens | None = None
    layers: list[Layer] = []
    counts = [s[0] if s[1] == batch else s[1] for s in shapes.values() if s and len(s) == 3 and batch in s[:2]]
    usual = max(set(counts), key=counts.count) if counts else 0
    for path, mod in module.named_modules():
        shape = shapes.get(path)
        if shape and isinstance(mod, torch.nn.Conv2d):
            # A first convolution without overlap is a patch embedding: tokens are its grid and a few before it (class
            # token, registers). Pyramids of tokens start otherwise; their norms at each resolution have other grids.
            if len(shape) == 4 and mod.kernel_size == mod.stride and mod.stride[0] > 1 and 0 <= usual - shape[2] * shape[3] <= 8:
                tokens = {"grid": shape[2:], "prefix": usual - shape[2] * shape[3], "patch": list(mod.stride)}
            break

    def misfit(h: int, w: int) -> float:
        return abs(h - height * w / width) if h > 1 and w > 1 else float("inf")

    def layout_of_map(shape: list[int]) -> str | None:
        first, last = misfit(shape[2], shape[3]), misfit(shape[1], shape[2])
        return None if min(first, last) > 1.5 else "nhwc" if last < first else "nchw"

    # Tokens without others before them are a map that was flattened, or the image cut into squares.
    grids: dict[int, list[int] | None] = {}
    for shape in shapes.values():
        if shape and len(shape) == 4 and shape[0] == batch and (layout := layout_of_map(shape)):
            rows, columns = shape[2:] if layout == "nchw" else shape[1:3]
            grids.setdefault(rows * columns, [rows, columns])
    maps = {count: grid for count, grid in grids.items() if grid}
    first = next(iter(maps.values()), None)
    for side in range(2, min(height, width) // 2 + 1):
        cells = [height // side, width // side]
        if height % side == 0 and width % side == 0 and (first is None or _is_halved(first, cells)):
            grids.setdefault(cells[0] * cells[1], cells)
    # a pyramid's class token is put before the map of each stage; elsewhere most modules give one more token than the first ones
    patches = usual - 1
    flat = maps | ({patches: grids[patches]} if patches in counts and grids.get(patches) else {})
    prefixes = {count + 1: 1 for count in flat if count + 1 not in grids}
    grids |= {count: flat[count - 1] for count in prefixes}
    if tokens:
        grids[tokens["grid"][0] * tokens["grid"][1] + tokens["prefix"]] = None  # as `tokens` says

    for path, shape in shapes.items():
        if (
            not path
            or not shape
            or batch not in shape[:2]
            or (re.search(r"(^|\.)\w*att", path) and re.search("Softmax|Dropout", types[path]))
        ):
            continue  # attention's inner maps are tokens by tokens, not a picture
        layer = {"path": path, "type": types[path], "shape": shape}
        if len(shape) == 4 and shape[0] == batch and layout_of_map(shape):
            layers.append({**layer, "layout": layout_of_map(shape)})
        elif len(shape) == 3:
            layer["layout"] = "tokens" if shape[0] == batch and (shape[1] != batch or shape[1] in grids) else "tokens_first"
            if (count := num_tokens(layer, shape)) in grids:
                grid = grids[count]
                layers.append({**layer, **({"tokens": {"grid": grid, "prefix": prefixes.get(count, 0)}} if grid else {})})
    return layers, tokens


def scoring(module: nn.Module, shapes: Shapes, layers: Iterable[Layer], num_classes: int) -> set[str]:
    """Paths of the layers that are a segmentation network's scores themselves: one channel a class, and no weights after them.

    There is nothing to weigh in them: the score is the one channel of its class.
    """
    ends = {path: at for at, path in enumerate(shapes)}
    weighted = [ends[path] for path, mod in module.named_modules() if path in ends and [*mod.parameters(recurse=False)]]
    return {
        layer["path"]
        for layer in layers
        if ends[layer["path"]] >= max(weighted, default=len(ends))
        and layer["shape"][{"nchw": 1}.get(layer["layout"], -1)] == num_classes
    }


def is_tokens(layer: Layer) -> bool:
    """Whether its output is tokens, `[N, T, C]` or `[T, N, C]`."""
    return str(layer["layout"]).startswith("tokens")


def num_tokens(layer: Layer, shape: Sequence[int]) -> int:
    """How many tokens an output of that shape has."""
    return shape[0] if layer["layout"] == "tokens_first" else shape[1]


def _is_halved(first: Sequence[int], grid: Sequence[int]) -> bool:
    """Whether `grid` is `first` as it is or halved some times: other numbers of tokens are none of the image's."""
    return any(
        all(side in (-(-whole // by), whole // by) for whole, side in zip(first, grid, strict=True))
        for by in (1, 2, 4, 8, 16, 32)
    )


def number_layers(layers: Iterable[Layer], order: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """({"1": path, ...}, [default number]): the stages of the network, as a person counts them.

    Transformers: the norm before each block's attention (the usual choice, because the attention and its shortcut meet
    there). ResNets: layer1 to layer4. Other networks: the last module at each resolution. `layers` and `order`, the paths of all
    modules, are in the order in which they end; where much of the network comes after what was found so, its blocks are numbered.
    """
    by_path = {layer["path"]: layer for layer in layers}
    places = {path: at for at, path in enumerate(order or by_path)}

    def before_attention(norm: str) -> bool:
        block = norm.rpartition(".")[0] + "."
        attention = [at for path, at in places.items() if path.startswith(block) and "att" in path.removeprefix(block)]
        return not attention or places[norm] < min(attention)

    if not (numbered := _named(by_path, before_attention)):
        numbered = _at_each_resolution(by_path, before_attention)
        if _is_early(by_path, numbered):
            norms = [path for path in by_path if "Norm" in (by_path[path]["type"] or "") and path not in numbered]
            numbered = _blocks(by_path) or [*numbered, *norms[-1:]]
    aliases = {str(i + 1): path for i, path in enumerate(numbered)}
    return aliases, [str(len(aliases))] if aliases else []


def _is_early(by_path: dict[str, Layer], numbered: list[str]) -> bool:
    """Whether more than a quarter of the network comes after what was numbered."""
    if not numbered:
        return True
    ends = list(by_path)
    after = len(ends) - 1 - ends.index(numbered[-1])
    return after * 4 > len(ends) and after > 8  # in a small network a head is a quarter


def _family(by_path: dict[str, Layer], pattern: str, of_tokens: bool) -> list[str]:
    """Paths whose end matches, in the shortest prefix that has at least two."""
    groups: dict[str, list[str]] = {}
    for path, layer in by_path.items():
        found = re.fullmatch(rf"((?:.*\.)?)({pattern})", path)
        if found and is_tokens(layer) == of_tokens:
            groups.setdefault(found[1], []).append(path)
    families = [paths for paths in groups.values() if len(paths) > 1]
    return min(families, key=lambda paths: len(paths[0])) if families else []


def _blocks(by_path: dict[str, Layer]) -> list[str]:
    """The numbered modules (`stages.2`, `blocks.11`) of the list that ends last, of the outermost where lists are nested."""
    groups: dict[str, list[str]] = {}
    for path in by_path:
        if found := re.fullmatch(r"(.*?)\.?(\d+)", path):
            groups.setdefault(found[1], []).append(path)
    ends = list(by_path)
    lists = {prefix: paths for prefix, paths in groups.items() if len(paths) > 1}
    if not lists:
        return []
    latest = max(ends.index(paths[-1]) for paths in lists.values())
    # of lists that end within the last tenth of the network, the one nearest to the root
    late = [prefix for prefix, paths in lists.items() if ends.index(paths[-1]) >= latest - len(ends) // 10]
    return lists[min(late, key=lambda prefix: (prefix.count("."), -len(lists[prefix])))]


def _windowed(by_path: dict[str, Layer], before_attention: Callable[[str], bool]) -> list[str]:
    """The stages of transformers' windowed attention, whose own modules return more than a tensor.

    Of each the norm before its last attention. Where norms come after it (Swin V2), what leads to the next stage, and the last norm.
    """
    stages: dict[str, str] = {}
    for path in by_path:
        if found := re.fullmatch(r"(.*\.layers\.\d+)\.blocks\.\d+\.layernorm_before", path):
            stages[found[1]] = path
    if not stages or before_attention(list(stages.values())[-1]):
        return list(stages.values())
    ends = list(by_path)
    after = [
        path
        for path in ends[ends.index(list(stages.values())[-1]) :]
        if by_path[path]["type"] == "LayerNorm" and ".blocks." not in path
    ]
    return [f"{stage}.downsample" for stage in stages if f"{stage}.downsample" in by_path] + after[:1]


def _with_class_tokens(by_path: dict[str, Layer], before_attention: Callable[[str], bool]) -> list[str]:
    """The stages of a pyramid whose last one has a class token: of each the norm before its last attention."""
    stages: dict[str, str] = {}
    for path, layer in by_path.items():
        found = re.fullmatch(rf"(.*)\.\w*?\d+\.{FIRST_NORM}", path)
        if found and is_tokens(layer) and before_attention(path):
            stages[found[1]] = path
    tokens = [by_path[path].get("tokens") or {} for path in stages.values()]
    is_pyramid = len({tuple(one.get("grid", ())) for one in tokens}) == len(tokens) > 1
    return list(stages.values()) if is_pyramid and tokens[-1].get("prefix") else []


def _named(by_path: dict[str, Layer], before_attention: Callable[[str], bool]) -> list[str]:
    """The layers that libraries' usual names tell to be the stages."""
    blocks = _family(by_path, BLOCK_NORMS, of_tokens=True)
    if blocks and not any("tokens" in by_path[path] for path in blocks):  # pyramids of tokens have stages
        if not before_attention(blocks[-1]):
            blocks = [path.rpartition(".")[0] for path in blocks if path.rpartition(".")[0] in by_path]
        return blocks
    if outer := _family(by_path, OUTER_NORMS, of_tokens=True):
        return outer
    if pyramid := _windowed(by_path, before_attention) or _with_class_tokens(by_path, before_attention):
        return pyramid
    stages = _family(by_path, r"layer\d+", of_tokens=False)
    return sorted(stages, key=lambda p: int(re.sub(r".*\D", "", p)))


def _at_each_resolution(by_path: dict[str, Layer], before_attention: Callable[[str], bool]) -> list[str]:
    """The last layer at each resolution."""
    children = (
        _family(by_path, r"(?:features|stages|trunk_output|layers|blocks)\.\w+", of_tokens=False)
        or _family(by_path, r"backbone\.\w+", of_tokens=False)
        or [p for p in by_path if "." not in p]
        or list(by_path)
    )
    last: dict[tuple[int, ...], str] = {}
    children = [p for p in children if not is_tokens(by_path[p])] or children
    # a pooling between stages belongs to none
    for path in [p for p in children if "Pool" not in (by_path[p]["type"] or "")] or children:
        shape = by_path[path]["shape"]
        size = {"nchw": shape[2:], "nhwc": shape[1:3]}.get(by_path[path]["layout"]) or [num_tokens(by_path[path], shape)]
        last[tuple(size)] = path
    for size, path in last.items():
        # windowed attention: as for the transformers above, the norm before the attention of the stage's last block
        norms = [
            p
            for p in by_path
            if re.fullmatch(re.escape(path) + r"(?:\.blocks)?\.\d+\.norm1", p)
            and by_path[p]["type"] == "LayerNorm"
            and before_attention(p)
        ]
        last[size] = norms[-1] if norms else path
    return list(last.values())
