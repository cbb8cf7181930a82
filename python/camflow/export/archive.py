"""Writing the archive: traced, described, verified, and then put in its place."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .describe import describe
from .layers import Layer, Size, number_layers
from .loaders import LoadedModel, Metadata
from .messages import ExportError, first_line, say
from .preprocess import fixed_size, scaled, stretched, unknown_preprocessing, with_padding
from .reasons import input_channels, quiet, refuse_random, ungraded
from .sizes import follow_sizes, size_multiple
from .trace import KINDS, Traced, refuse_foreign, strip_traces, trace
from .verify import OtherSizesError, num_calls, signatures, verify
from .weights import warm_batchnorm

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torch import Tensor, nn

EXAMPLE_SIZE = (224, 256)  # not square, so that height and width stay apart; 7x8 at stride 32, so that no map is 1 wide

SIDES = (224, 256, 384, 448, 512, 336, 320, 299, 288, 240, 192, 160, 128, 96, 64, 48, 32, 28)  # of networks for one size


def _only_size(module: nn.Module, channels: int, usual: Collection[Size]) -> Size | None:
    """The size of images that the module takes where it takes none of the `usual` ones; None where it takes one, or no size."""
    import torch

    for size in (*usual, *((side, side) for side in SIDES)):
        with contextlib.suppress(Exception), torch.no_grad(), quiet():  # it says which sizes it takes by raising
            module(torch.zeros(1, channels, *size))
            return None if size in usual else size
    return None


def measured(camflow: str | os.PathLike[str], path: Path) -> dict[str, Any]:
    """What the program `camflow` finds when it runs the archive: entries of camflow.json, or none where it fails."""
    began = time.monotonic()
    done = subprocess.run([camflow, "measure", path], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        say(
            f"warning: `{camflow} measure` ended with {done.returncode}: the archive will not say how far the default mode is from float64"
        )
        return {}
    found: dict[str, Any] = json.loads(done.stdout)
    say(f"measured at {len(found['default_mode'])} inputs in {time.monotonic() - began:.0f} s")
    return found


def export(
    loaded: LoadedModel,
    out: str | os.PathLike[str],
    size: Size | None = None,
    static_size: bool = False,
    primary_output: str | int | None = None,
    warm: int = 0,
    seed: int = 0,
    layouts: dict[str, Layer] | None = None,
    verbose: bool = False,
    measure_with: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Writes `loaded` to `out` (a `.pt2` path), verified; gives the content of camflow.json. Replaces `out` only at the end.

    `size` (height, width) is that of the example image in pixels, the only one with `static_size`. `primary_output` is the output
    to explain, by key or number. With `warm`, so many batches of noise, drawn from `seed`, set the statistics of batch norms.
    `layouts` says of module paths how their output lies over the image, where that is not plain from its shape. `measure_with` is
    the camflow program that measures how the archive behaves when it is run.

    Raises:
        ExportError: the model cannot be exported, nothing says how its images are preprocessed, or the archive does not give what
            the model gives.
    """
    import torch

    out = Path(out)
    # attention's fused eager path differs in the last bits from the operators that the archive holds
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        given: Any = loaded.metadata.get("example")
        size = size or (tuple(given[-2:]) if given else None)
        fixed = fixed_size(loaded.metadata.get("preprocess"))
        # of a program that was exported before: which of its sides are one number for good
        batch_is_fixed, _, *sides_are_fixed = loaded.metadata.get("fixed", (False, True, False, False))
        fixed_batch = given[0] if batch_is_fixed else None
        static_reason = "--static-size" if static_size else "it was exported for one size" if any(sides_are_fixed) else None
        if fixed and loaded.metadata.get("one_size") and not static_reason:
            static_reason = "images are always made this size"
        channels = given[1] if "fixed" in loaded.metadata else input_channels(loaded.module, size or fixed or EXAMPLE_SIZE)
        if not loaded.metadata.get("preprocess"):
            raise unknown_preprocessing(f"nothing says how images are preprocessed for `{loaded.name}`", channels)
        if fixed and not size and (only := _only_size(loaded.module, channels, (fixed,))):
            loaded.metadata["preprocess"] = scaled(loaded.metadata["preprocess"], fixed, only)
            fixed = only
        refuse_random(
            loaded.module,
            torch.randn(
                fixed_batch or 1, channels, *(size or fixed or EXAMPLE_SIZE), generator=torch.Generator().manual_seed(seed)
            ),
        )
        if warm:
            warm_batchnorm(loaded.module, warm, size or fixed or EXAMPLE_SIZE, seed, channels)
        free_size, one_size = size or EXAMPLE_SIZE, size or fixed or (224, 224)
        if not (size or fixed) and (only := _only_size(loaded.module, channels, (EXAMPLE_SIZE, (224, 224)))):
            free_size = one_size = only
        kinds: Sequence[str] = KINDS
        while True:
            traced = trace(
                loaded.module,
                one_size,
                None if static_reason else free_size,
                static_reason,
                channels,
                fixed_batch,
                verbose,
                kinds,
            )
            kinds = KINDS[KINDS.index(traced[2]) + 1 :]
            try:
                return _write(loaded, traced, out, primary_output, layouts or {}, measure_with)
            except OtherSizesError as error:
                if not kinds:
                    raise
                one_size = size or fixed or (traced[1].shape[2], traced[1].shape[3])
                free = "height and width are" if traced[2] == "bhw" else "all sizes are"
                say(f"{free} fixed, because a freer export does not hold: {error}")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _write(
    loaded: LoadedModel,
    traced: Traced,
    out: Path,
    primary_output: str | int | None,
    layouts: dict[str, Layer],
    measure_with: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Describes what was traced, verifies it and puts it at `out`; gives the content of camflow.json."""
    import torch

    program, example, kind, shapes, unfit, output = traced
    refuse_foreign(program)
    strip_traces(program)
    meta, counted = describe(loaded, shapes, example, output, primary_output, layouts)
    meta["input"]["dynamic"] = kind
    asked = {layer if isinstance(layer, str) else layer["path"] for layer in loaded.metadata.get("layers", ())} | set(layouts)
    if kind == "bhw":
        # windows are made anew for each size
        meta["layers"] = [layer for layer in meta["layers"] if layer["layout"] != "windows"]
        is_of_multiples = any(step["op"] == "letterbox" and "stride" in step for step in meta["preprocess"])
        of = None if is_of_multiples else size_multiple(loaded.module, meta["input"]["example"][2:], example.shape[1])
        meta["preprocess"] = with_padding(meta["preprocess"], of) if of else meta["preprocess"]
        follow_sizes(loaded.module, meta, asked)
    elif loaded.metadata.get("one_size"):
        meta["preprocess"] = stretched(meta["preprocess"], (example.shape[2], example.shape[3]))
    named = {path for path, value in signatures(program).items() if value}
    lost = [layer["path"] for layer in meta["layers"] if layer["path"] not in named]
    meta["layers"] = [layer for layer in meta["layers"] if layer["path"] in named]
    meta["modules_without_signature"] = unfit
    _check_layers(loaded.module, example, meta, lost)
    _say_calls(loaded.metadata, program)
    out.parent.mkdir(parents=True, exist_ok=True)
    # a folder beside `out`: the same disk, so that the rename is atomic, and the archive's root gets the final name
    with tempfile.TemporaryDirectory(prefix=".camflow-export-", dir=out.parent) as folder:
        draft, final = Path(folder) / out.name, Path(folder) / "checked" / out.name
        final.parent.mkdir()
        try:
            torch.export.save(program, draft, extra_files={"camflow.json": json.dumps(meta)})
        except Exception as error:  # sizes that are computed in ways that torch cannot write
            raise OtherSizesError(f"torch cannot write it: {first_line(error)}") from error
        meta["verified"], failed = verify(draft, loaded.module, meta)
        if failed:
            _drop_layers(meta, failed, asked, counted, list(shapes), loaded.metadata)
            torch.export.save(program, draft, extra_files={"camflow.json": json.dumps(meta)})
        if measure_with:
            meta.update(measured(measure_with, draft))
        torch.export.save(program, final, extra_files={"camflow.json": json.dumps(meta)})
        if _checksums(draft) != _checksums(final):
            raise ExportError(
                "two writes of the same model differ: the archive cannot be trusted",
                "please report this with the model's name",
            )
        with open(final, "rb") as file:
            os.fsync(file.fileno())
        os.replace(final, out)
    return meta


def _say_calls(given: Metadata, program: ExportedProgram) -> None:
    """A note for each module that the user names as a layer without saying which of its calls is meant."""
    listed = [layer if isinstance(layer, str) else layer["path"] for layer in given.get("layers", ())]
    named = [*listed, *map(str, given.get("default_layers", ())), *given.get("aliases", {}).values()]
    for path in dict.fromkeys(named):
        if "@" not in path and (calls := num_calls(program, path)) > 1:
            say(f"note: `{path}` is called {calls} times, and its first call is the layer; `{path}@1` is the second")


def _check_layers(module: nn.Module, example: Tensor, meta: dict[str, Any], lost: list[str]) -> None:
    """Says why layers are none, and raises `ExportError` where none is left."""
    cuts = ungraded(module, example) if lost or not meta["layers"] else []
    if not meta["layers"]:
        if cuts:
            raise ExportError(
                f"the model computes its layers under {'; '.join(cuts[:3])}, where nothing can be explained",
                "take it away; to freeze weights use `requires_grad_(False)`",
            )
        raise ExportError(
            "the model has no module whose output can be drawn over the image", "describe its layers in `camflow_metadata`"
        )
    if cuts:
        say(
            f"warning: {len(lost)} modules such as `{lost[-1]}` are no layers: the model computes them under {'; '.join(cuts[:3])}"
        )


def _drop_layers(
    meta: dict[str, Any],
    failed: dict[str, str],
    asked: set[str],
    counted: Collection[str],
    order: Sequence[str],
    given: Metadata,
) -> None:
    """Leaves out layers whose value in the archive is not the model's, and numbers the others anew, but where `given` numbers them.

    Raises:
        ExportError: somebody named one of them, or none is left.
    """
    is_numbered = "aliases" in given or "default_layers" in given
    numbered = [*meta["aliases"].values(), *meta["default_layers"]] if is_numbered else []
    asked = asked | {path.partition("@")[0] for path in numbered}
    path, wrong = next(((path, wrong) for path, wrong in failed.items() if path in asked), ("", ""))
    if path:
        raise ExportError(f"verification failed: layer `{path}` {wrong}", "name other layers in `camflow_metadata`")
    meta["layers"] = [layer for layer in meta["layers"] if layer["path"] not in failed]
    if not meta["layers"]:
        path, wrong = next(iter(failed.items()))
        raise ExportError(f"verification failed: layer `{path}` {wrong}")
    path, wrong = next(iter(failed.items()))
    say(f"note: {len(failed)} {'module is' if len(failed) == 1 else 'modules are'} left out of the layers: `{path}` {wrong}")
    if is_numbered:
        return
    usable = [layer for layer in meta["layers"] if layer["path"] in counted]
    meta["aliases"], meta["default_layers"] = number_layers(usable or meta["layers"], order)
    meta["default_because"] = "the last stage of which the archive gives the model's values"


def _checksums(path: Path) -> dict[str, int]:
    """What was verified: every entry but camflow.json (the second write adds the result to it)."""
    with zipfile.ZipFile(path) as archive:
        return {
            i.filename: i.CRC for i in archive.infolist() if not i.filename.endswith(("/extra/camflow.json", "serialization_id"))
        }
