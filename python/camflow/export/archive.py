"""Writing the archive: traced, described, verified, and then put in its place."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from .describe import describe
from .layers import Layer, Size, follow_sizes, size_multiple
from .loaders import LoadedModel
from .messages import ExportError, say
from .preprocess import fixed_size, with_padding
from .reasons import input_channels, refuse_random, ungraded
from .trace import refuse_foreign, strip_traces, trace
from .verify import signatures, verify
from .weights import warm_batchnorm

EXAMPLE_SIZE = (224, 256)  # not square, so that height and width stay apart; 7x8 at stride 32, so that no map is 1 wide


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
        ExportError: the model cannot be exported, or the archive does not give what the model gives.
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
        channels = given[1] if "fixed" in loaded.metadata else input_channels(loaded.module, size or fixed or EXAMPLE_SIZE)
        refuse_random(
            loaded.module,
            torch.randn(
                fixed_batch or 1, channels, *(size or fixed or EXAMPLE_SIZE), generator=torch.Generator().manual_seed(seed)
            ),
        )
        if warm:
            warm_batchnorm(loaded.module, warm, size or fixed or EXAMPLE_SIZE, seed, channels)
        program, example, kind, shapes, unfit, output = trace(
            loaded.module,
            size or fixed or (224, 224),
            None if static_reason else size or EXAMPLE_SIZE,
            static_reason,
            channels,
            fixed_batch,
            verbose,
        )
        refuse_foreign(program)
        strip_traces(program)
        meta = describe(loaded, shapes, example, output, primary_output, layouts)
        meta["input"]["dynamic"] = kind
        if kind == "bhw":
            said = {layer if isinstance(layer, str) else layer["path"] for layer in loaded.metadata.get("layers", ())}
            of = size_multiple(loaded.module, meta["input"]["example"][2:], channels)
            meta["preprocess"] = with_padding(meta["preprocess"], of) if of else meta["preprocess"]
            follow_sizes(loaded.module, meta, said | set(layouts or ()))
        named = {path for path, value in signatures(program).items() if value}
        lost = [layer["path"] for layer in meta["layers"] if layer["path"] not in named]
        meta["layers"] = [layer for layer in meta["layers"] if layer["path"] in named]
        cuts = ungraded(loaded.module, example) if lost or not meta["layers"] else []
        meta["modules_without_signature"] = unfit
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
        out.parent.mkdir(parents=True, exist_ok=True)
        # a folder beside `out`: the same disk, so that the rename is atomic, and the archive's root gets the final name
        with tempfile.TemporaryDirectory(prefix=".camflow-export-", dir=out.parent) as folder:
            draft, final = Path(folder) / out.name, Path(folder) / "checked" / out.name
            final.parent.mkdir()
            torch.export.save(program, draft, extra_files={"camflow.json": json.dumps(meta)})
            meta["verified"] = verify(draft, loaded.module, meta)
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
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return meta


def _checksums(path: Path) -> dict[str, int]:
    """What was verified: every entry but camflow.json (the second write adds the result to it)."""
    with zipfile.ZipFile(path) as archive:
        return {
            i.filename: i.CRC for i in archive.infolist() if not i.filename.endswith(("/extra/camflow.json", "serialization_id"))
        }
