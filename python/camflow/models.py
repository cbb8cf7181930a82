"""Models as people hold them, as archives that camflow runs: exported to the cache, once for the same content."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import logger

if TYPE_CHECKING:
    from torch import nn

    from .export import LoadedModel

# "imagenet", "none" or a file, steps as in camflow.json, transforms of torchvision, an image processor of Hugging Face.
Preprocess = Any

# How far apart, relative to the largest, a model's outputs may be from those of the one that an archive was made of. Threads add
# numbers up in another order; another network is nowhere near.
TOLERANCE = 1e-3


def cache_folder() -> Path:
    """Where archives are kept that nobody named a place for: that of the program, so that `camflow inspect NAME` finds them."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CAMFLOW_CACHE") or caches / "camflow") / "models"


def reference(
    model: Any,
    program: str,
    class_names: Iterable[str] | None,
    preprocess: Preprocess | None,
    sentences: list[str] | None = None,
) -> str:
    """What `--model` is for `model`: its path or name, or the archive that it is exported to here; `program` measures that.

    With `sentences` it is the image tower of a CLIP-like model, and these are the texts to score, which are embedded here where the
    program could not load the model again.

    Raises:
        ExportError: it cannot be exported, or has no text tower.
        ValueError: `class_names` are given for a model that scores texts.
    """
    if sentences is not None and class_names is not None:
        raise ValueError("a model that scores texts has no classes of its own: leave out `class_names`")
    is_named = isinstance(model, (str, os.PathLike))
    if is_named and class_names is None and preprocess is None:
        text = os.fspath(model)
        # A name is exported by the program itself, to the same cache.
        return str(Path(text).expanduser().absolute()) if Path(text).expanduser().is_file() else text
    from .export import ExportError, load_model
    from .export.texts import read_description, write

    steps = _steps(preprocess)
    task = None if sentences is None else "embedding"
    loaded = load_model(os.fspath(model) if is_named else _copied(model), classes=class_names, preprocess=steps, task=task)
    if sentences is not None and loaded.texts is None:
        raise ExportError(
            f"the model `{loaded.name}` has no text tower, so texts cannot be scored with it",
            "give a CLIP-like model of FiftyOne's zoo, or the name or folder of one of Hugging Face",
            code=2,
        )
    if not loaded.metadata.get("preprocess"):
        raise ExportError(
            f"nothing says how images are prepared for the model `{loaded.name}`, and heatmaps of images that are prepared otherwise "
            "look right and are wrong",
            'give `preprocess`: "imagenet", the transforms that it was trained with, or a list of steps',
            code=2,
        )
    archive = _archive(loaded, program)
    if loaded.texts is not None and sentences:
        said = read_description(archive)
        write(loaded.texts, sentences, cache_folder() / "texts" / said["key"])
    return str(archive)


def _steps(preprocess: Preprocess | None) -> list[dict[str, Any]] | None:
    from .export.transforms import steps_from_flags, steps_from_processor, steps_from_transforms

    if preprocess is None or isinstance(preprocess, list):
        return preprocess
    if isinstance(preprocess, (str, os.PathLike)):
        return steps_from_flags(os.fspath(preprocess), None, None, None)
    # An image processor of Hugging Face.
    if hasattr(preprocess, "to_dict"):
        return steps_from_processor(preprocess.to_dict())
    return steps_from_transforms(preprocess)


def _copied(model: Any) -> Any:
    """A copy that can be moved to the CPU and taken apart: the model itself goes on as it is."""
    if hasattr(model, "_model"):
        copied = copy.copy(model)
        copied._model = copy.deepcopy(model._model)
        return copied
    return copy.deepcopy(model)


def _archive(loaded: LoadedModel, program: str) -> Path:
    """The archive of a model: the one that is there for the same content, if it gives the same; else a new one."""
    from .export import export

    path = cache_folder() / f"{_file_name(loaded.name)}-{_digest(loaded)[:16]}.pt2"
    beside = path.with_suffix(".outputs.pt")
    if path.is_file() and beside.is_file():
        if _gives_the_same(loaded.module, beside):
            return path
        # What a module does may hang on what is no part of it: a global, a closure.
        logger.info("note: `%s` does not do what it did when it was exported; it is exported again", loaded.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.info("exporting `%s` to `%s`, once", loaded.name, path)
    content = export(loaded, path, measure_with=program)
    _keep_outputs(loaded.module, content["input"]["example"], beside)
    return path


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "model"


def _digest(loaded: LoadedModel) -> str:
    """Of all that an archive is made from: weights, structure, code and metadata, and who makes it."""
    import torch

    digest = hashlib.blake2b()

    def add(*parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, (bytes, memoryview)) else str(part).encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)

    add(torch.__version__, json.dumps(loaded.metadata, sort_keys=True, default=str))
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        add(source.read_bytes())
    for path, module in loaded.module.named_modules():
        add(path, type(module).__qualname__, module.extra_repr())
        for name, value in sorted(vars(module).items()):
            if isinstance(value, (str, int, float, bool, tuple, type(None))):
                add(name, value)
        for code in _codes(type(module)):
            add(code)
    tensors = [*loaded.module.named_parameters(), *loaded.module.named_buffers()]
    for name, tensor in tensors:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        add(name, tensor.dtype, tuple(tensor.shape), data.tobytes())
    return digest.hexdigest()


def _codes(kind: type) -> Iterator[str]:
    """What the functions of a class do, which somebody may have edited in a notebook under the same name."""
    for base in kind.__mro__[: kind.__mro__.index(_module_class())] if _module_class() in kind.__mro__ else ():
        for name, value in sorted(vars(base).items()):
            code = getattr(value, "__code__", None)
            if code is not None:
                yield name
                yield from _code(code)


def _code(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield str(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)


def _module_class() -> type:
    import torch

    kind: type = torch.nn.Module
    return kind


def _outputs(module: nn.Module, shape: list[int]) -> list[Any]:
    """What the module gives for noise, always the same."""
    from torch.utils import _pytree

    import torch

    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [leaf for leaf in _pytree.tree_leaves(module(noise)) if isinstance(leaf, torch.Tensor)]


def _keep_outputs(module: nn.Module, shape: list[int], path: Path) -> None:
    import torch

    whole = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({"shape": shape, "outputs": _outputs(module, shape)}, whole)
    whole.replace(path)


def _gives_the_same(module: nn.Module, path: Path) -> bool:
    import torch

    try:
        kept = torch.load(path, weights_only=True)
        found = _outputs(module, kept["shape"])
    except Exception:  # noqa: BLE001  (a file that is cut off, a module that takes other images by now)
        return False
    if [o.shape for o in found] != [o.shape for o in kept["outputs"]]:
        return False
    return all(
        float((a.double() - b.double()).abs().max()) <= TOLERANCE * max(1e-12, float(b.double().abs().max()))
        for a, b in zip(found, kept["outputs"], strict=True)
        if a.numel()
    )
