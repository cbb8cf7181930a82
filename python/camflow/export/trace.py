"""Tracing: from a module to a graph that camflow runs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .layers import Shapes, Size, observe
from .messages import ExportError, say
from .reasons import hint_for, quiet, reason

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torch import Tensor, nn


# program, example, one of KINDS, shapes by path, paths without signature, output
Traced: TypeAlias = "tuple[ExportedProgram, Tensor, str, Shapes, list[str], Any]"
# What is free in an export: batch, height and width; the batch; nothing.
KINDS = ("bhw", "batch", "none")


def trace(
    module: nn.Module,
    size: Size,
    dynamic: Size | None,
    static_reason: str | None = None,
    channels: int = 3,
    fixed_batch: int | None = None,
    verbose: bool = False,
    kinds: Sequence[str] = KINDS,
) -> Traced:
    """Export at an example `size`; with `dynamic` try free height and width first, at `dynamic` as example size.

    With `fixed_batch` the batch is not free either. `verbose` shows what torch says meanwhile. `kinds` are those of KINDS to try.

    The example is [N, C, H, W] of float32.

    Raises:
        ExportError: it cannot be exported in any way.
    """
    import torch

    free = torch.export.Dim.DYNAMIC
    reasons: dict[str, str] = {}
    inputs = list(inspect.signature(module.forward).parameters.values())
    takes_any = bool(inputs) and inputs[0].kind is inspect.Parameter.VAR_POSITIONAL  # torch wants what describes `*args` nested
    if any(re.search("WindowAttention|Swin", type(m).__name__) for m in module.modules()):
        # it traces, but takes minutes (or no end, where the image is padded to whole windows), and the graph holds for the one size
        dynamic, static_reason = None, "windowed attention is traced for one size"
    if static_reason:
        say(f"height and width are fixed at {size[0]}x{size[1]}: {static_reason}")
    attempts: list[tuple[str, int, Size, dict[int, Any]]]
    attempts = [("bhw", 2, dynamic, {0: free, 2: free, 3: free})] if dynamic and not fixed_batch else []
    # batch 2: a free dimension must not be 1 in the example
    attempts += [] if fixed_batch else [("batch", 2, size, {0: free})]
    attempts += [("none", fixed_batch or 1, size, {})]
    for kind, batch, (height, width), dims in [attempt for attempt in attempts if attempt[0] in kinds]:
        example = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
        try:
            with quiet(verbose):
                shapes, unfit, output = observe(module, example)
        except Exception as error:  # noqa: BLE001  a model may raise anything; the next attempt asks less of it
            reasons.setdefault(reason(error), f"{kind} at {height}x{width}")
            continue
        bearers = [p for p in shapes if p and p not in unfit]
        try:
            with quiet(verbose):
                program = torch.export.export(
                    module,
                    (example,),
                    dynamic_shapes=((dims,),) if takes_any else (dims,),
                    preserve_module_call_signature=tuple(bearers),
                )
        except Exception as error:  # noqa: BLE001  a model may raise anything; the next attempt asks less of it
            reasons.setdefault(reason(error), f"{kind} at {height}x{width}")
            continue
        if reasons:
            say(
                f"{'height and width are' if kind == 'batch' else 'all sizes are'} fixed, because a freer export failed:\n  "
                + "\n  ".join(f"{at}: {why}" for why, at in reasons.items())
            )
        return program, example, kind, shapes, unfit, output
    said = (
        f": {next(iter(reasons))}" if len(reasons) == 1 else ":\n  " + "\n  ".join(f"{at}: {why}" for why, at in reasons.items())
    )
    raise ExportError(f"the model cannot be exported{said}", hint_for(reasons))


def refuse_foreign(program: ExportedProgram) -> None:
    """Raise `ExportError` for what camflow cannot run: branches and loops on data, and operators that libtorch has not."""
    import torch

    known = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "_export_tracepoint")
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, torch.fx.GraphModule) else ():
            name = node.target.name() if isinstance(node.target, (torch._ops.HigherOrderOperator, torch._ops.OpOverload)) else ""
            if isinstance(node.target, torch._ops.HigherOrderOperator) and name not in known:
                raise ExportError(
                    f"the model uses `{name}`: camflow runs no control flow that depends on data",
                    "compute both branches and choose with `torch.where`, or export the part of the model before it",
                )
            if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "prims"):
                raise ExportError(
                    f"the model uses `{name}`, which is an operator of a library and not of PyTorch itself",
                    "wrap the part of the model before it: `file.py:function`",
                )


def strip_traces(program: ExportedProgram) -> None:
    """Drops the source paths of this machine from the graph; nothing else in the archive depends on them."""
    import torch

    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)
