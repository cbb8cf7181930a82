"""Weights from files, fitted to the module, and statistics for random ones."""

from __future__ import annotations

import collections
import importlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .architecture import nearest, stated
from .file_kinds import described, kind_of
from .messages import ExportError, first_line, say

if TYPE_CHECKING:
    from torch import Tensor, nn

# Weights by name, as `state_dict` gives them.
State = dict[str, "Tensor"]

# Under which key checkpoints keep the weights, the usual one first; `ema` is what was averaged over training.
NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "params",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema",
)
# Under which key checkpoints keep the names of their classes.
NAMES = ("classes", "class_names", "names", "idx_to_class", "id2label", "class_to_idx", "label2id")


def read_checkpoint(path: str) -> tuple[State, Any, str | None]:
    """(weights by name, names of classes or None, the network that it names or None) of a checkpoint file.

    Raises:
        ExportError: it holds no weights by name, or cannot be read without running what is in it.
    """
    kind = kind_of(path)
    if kind == "torchscript":
        return _of_torchscript(path), None, None
    if kind not in ("torch", "safetensors"):
        what, hint = described(path)
        raise ExportError(
            f"`--checkpoint`: `{path}` {what}",
            {
                "camflow": hint,
                "export": "give it as the model, in place of its name",
                "onnx": "give a checkpoint of PyTorch (torch.save or safetensors)",
                "pickle": 'save the weights alone: `torch.save(model.state_dict(), "weights.pt")`',
            }.get(kind, hint or "give a checkpoint of PyTorch (torch.save or safetensors)"),
            code=2,
        )
    if kind == "safetensors":
        return importlib.import_module("safetensors.torch").load_file(path), None, None
    content = _load(path)
    return *_of_checkpoint(path, content), stated(content)


def _of_torchscript(path: str) -> State:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is of the past
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except RuntimeError as error:
        raise ExportError(f"`torch.jit.load` cannot read `{path}`: {first_line(error)}") from error


class _Unknown(dict[Any, Any]):
    """What stands for an object of a class that is not torch's: it holds what the file says of it, and runs nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whatever it is made of."""

    def append(self, value: Any) -> None:
        """As lists are filled."""

    def extend(self, values: Any) -> None:
        """As lists are filled."""


def _load(path: str) -> Any:
    import torch

    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  of an old or damaged file; reading it says so
        unknown = []
    # torch's own reader that runs no code of the file, which refuses objects that it does not know: settings of a training,
    # and whole models. Weights lie beside and in them.
    stubs: list[Any] = [(type(name.rpartition(".")[2], (_Unknown,), {}), name) for name in unknown]
    try:
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if called := re.search(r"GLOBAL ([\w.]+) whose module", str(error)):
            raise ExportError(
                f"`--checkpoint`: `{path}` calls `{called[1]}` when it is loaded, which no weights need",
                "do not load it anywhere; get the weights from whom you trust",
            ) from error
        raise ExportError(
            f"`--checkpoint`: could not read `{path}`: {first_line(error)}",
            "the file is probably damaged: get it again; if it is not, save the weights alone: `torch.save(model.state_dict(), FILE)`",
        ) from error


def _of_model(value: object, prefix: str = "") -> State:
    """The weights of a whole model that was saved as an object, by the names that its `state_dict` would give them."""
    import torch

    held = getattr(value, "__dict__", {}) if isinstance(value, _Unknown) else {}
    if "_modules" not in held:
        return {}
    left_out = held.get("_non_persistent_buffers_set") or ()
    own = {**(held.get("_parameters") or {}), **{k: v for k, v in (held.get("_buffers") or {}).items() if k not in left_out}}
    found: State = {f"{prefix}{name}": tensor.detach() for name, tensor in own.items() if isinstance(tensor, torch.Tensor)}
    for name, child in held["_modules"].items():
        found.update(_of_model(child, f"{prefix}{name}."))
    return found


def _tensors(value: object) -> State:
    import torch

    if isinstance(value, _Unknown):
        return _of_model(value)
    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)} if isinstance(value, dict) else {}


def _of_checkpoint(path: str, content: object) -> tuple[State, Any]:
    if isinstance(content, _Unknown) and _of_model(content):
        return _of_model(content), getattr(content, "names", None)
    if not isinstance(content, dict):
        raise ExportError(
            f"`--checkpoint`: `{path}` holds a {type(content).__name__}, not weights by name",
            "save `model.state_dict()`, or a dict that has it under `state_dict`",
            code=2,
        )
    candidates = [key for key in (*NESTED, *content) if len(_tensors(content.get(key))) > 1]
    candidates = list(dict.fromkeys(candidates))
    names = next(
        (content[key] for key in NAMES if isinstance(content.get(key), (list, tuple, dict)) and not _tensors(content[key])), None
    )
    if len(_tensors(content)) > 1 or not candidates:
        state = _tensors(content)
    else:
        state = _tensors(content[candidates[0]])
        if len(candidates) > 1:
            others = ", ".join(f"`{key}`" for key in candidates[1:])
            say(f"note: `{path}` has weights under {others}, too: taking `{candidates[0]}`")
    if not state:
        keys = ", ".join(f"`{key}`" for key in list(content)[:6]) or "nothing"
        raise ExportError(
            f"`--checkpoint`: `{path}` holds no weights by name, but {keys}",
            "save `model.state_dict()`, or a dict that has it under `state_dict`",
            code=2,
        )
    return state, names


def fit_names(state: State, wanted: Iterable[str], path: str) -> State:
    """`state` under the names that the module uses: what wrappers put before or between them is taken off, with a note."""

    def without(word: str, state: State) -> State:
        cut = {re.sub(rf"(^|\.){word}\.", r"\1", key): value for key, value in state.items()}
        return cut if len(cut) == len(state) else state

    plain = state
    for word in ("module", "_orig_mod"):  # DataParallel's and torch.compile's
        if not any(re.search(rf"(^|\.){word}\.", key) for key in wanted):
            plain = without(word, plain)
    if set(plain) != set(state):
        say(f"note: `{path}`: `module.` and `_orig_mod.`, which DataParallel and torch.compile put into names, are taken off")
    matching = len(set(plain) & set(wanted))
    prefixes: collections.Counter[str] = collections.Counter()
    first = sorted(wanted, key=lambda key: -key.count("."))[:8]  # the longest names are the least ambiguous
    for key in plain:
        prefixes.update(key.removesuffix(name) for name in first if key.endswith(f".{name}"))
    for prefix, _ in prefixes.most_common(4):
        cut = {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
        if len(set(cut) & set(wanted)) > matching:
            left = [key for key in plain if not key.startswith(prefix)]
            say(
                f"note: `{path}`: its names begin with `{prefix}`, which is taken off"
                + (f"; {len(left)} without it are left out: {', '.join(f'`{key}`' for key in left[:3])}" if left else "")
            )
            return cut
    under = {key.partition(".")[0] + "." for key in wanted}
    for prefix in under if not matching else ():
        put = {prefix + key: value for key, value in plain.items()}
        if set(put) & set(wanted):
            say(f"note: `{path}`: the module has its names under `{prefix}`, which is put before them")
            return put
    return plain


def head_classes(state: State, wanted: Mapping[str, Tensor], usual: int | None = None) -> int | None:
    """How many classes the checkpoint is for, where it fits the module but for that number; None otherwise.

    With `usual`, the number of classes of the module, its heads may have several channels for each class, as those of detectors.
    """
    other = {
        key: (tuple(state[key].shape), tuple(tensor.shape))
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    }
    if not other or not all(theirs and ours and theirs[1:] == ours[1:] for theirs, ours in other.values()):
        return None
    heads = {(theirs[0], ours[0]) for theirs, ours in other.values()}
    if usual:
        # of each class as many channels there as here
        whole = all(ours % usual == 0 and theirs % (ours // usual) == 0 for theirs, ours in heads)
        heads = {(theirs * usual // ours, usual) for theirs, ours in heads} if whole else set()
    return heads.pop()[0] if len(heads) == 1 else None


def fit_channels(module: nn.Module, state: State) -> int | None:
    """Gives the module's first convolution as many input channels as the checkpoint has, and says how many, if they are others.

    The checkpoint's names have to be the module's own.
    """
    import torch

    path, first = next(((path, mod) for path, mod in module.named_modules() if isinstance(mod, torch.nn.Conv2d)), ("", None))
    weight = state.get(f"{path}.weight")
    if first is None or weight is None or weight.ndim != 4:
        return None
    ours, theirs = tuple(first.weight.shape), tuple(weight.shape)
    if ours[1] == theirs[1] or (ours[0], *ours[2:]) != (theirs[0], *theirs[2:]):
        return None
    first.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
    channels = int(theirs[1] * first.groups)
    first.in_channels = channels
    return channels


def load_state(module: nn.Module, state: State, path: str) -> None:
    """Puts the weights into the module.

    Raises:
        ExportError: not all of them fit.
    """
    wanted = module.state_dict()
    if not any(key.startswith("aux_classifier.") for key in wanted):
        # published segmentation checkpoints carry the auxiliary head, which plays no part in the answer
        state = {k: v for k, v in state.items() if not k.startswith("aux_classifier.")}
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    shapes = [
        f"`{key}` is {list(state[key].shape)} in the file and {list(wanted[key].shape)} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if not missing and not extra and not shapes:
        state = collections.OrderedDict(state)
        # The versions of modules, without which some take weights for those of their first one, are lost where names were changed.
        state._metadata = getattr(wanted, "_metadata", {})  # type: ignore[attr-defined]
        module.load_state_dict(state, strict=False)
        return
    said = [f"missing are {', '.join(f'`{k}`' for k in missing[:3])} ({len(missing)} of {len(wanted)})"] if missing else []
    said += [f"left over are {', '.join(f'`{k}`' for k in extra[:3])} ({len(extra)})"] if extra else []
    said += [f"{shapes[0]} ({len(shapes)} of other shapes)"] if shapes else []
    count = head_classes(state, wanted)
    hint = (
        f"it is for {count} classes: the network has to be built for as many"
        if count and not missing
        else f"the file has to hold the weights of this very network, and all of them; {said_of_nearest(state, path)}"
    )
    raise ExportError(f"`{path}` does not fit the model: {'; '.join(said)}", hint)


def said_of_nearest(state: State, path: str) -> str:
    """Which network the weights are of, as far as their names and shapes tell."""
    found = nearest(state)
    if found is None:
        return "no network of torchvision or timm has such weights"
    name, shared, count = found
    return (
        f"the nearest network is `{name}`, which has {shared} of its {count} weights by name and shape there: "
        f"`camflow export --arch {name} --checkpoint {path}`"
    )


def warm_batchnorm(module: nn.Module, passes: int, size: tuple[int, int], seed: int = 0, channels: int = 3) -> None:
    """Gives batch norms the statistics of `passes` batches of noise, so that a random network's activations stay sane.

    Freshly made running statistics (mean 0, variance 1) let activations grow or die with depth.
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average: with the usual 0.1 a few passes would leave most of the initial values
        norm.train()  # the norms alone: dropout and auxiliary heads stay as they are when the model is used
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(passes):
            module(torch.randn(4, channels, *size, generator=noise))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
