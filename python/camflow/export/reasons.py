"""Why a model cannot be exported or explained, in the user's own lines instead of torch's pages."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import unittest.mock
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .layers import output_keys
from .messages import ExportError, first_line, say
from .preprocess import MAX_CHANNELS

if TYPE_CHECKING:
    from torch import Tensor, nn

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "fiftyone")
ON_VALUES = "its forward takes values out of a tensor to decide or count by them"
OWN = Path(__file__).parent  # the exporter's own modules


@contextlib.contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Without what torch prints and logs by itself, which may be the whole graph."""
    if verbose:
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _is_users(filename: str) -> bool:
    path = Path(filename)
    inside = any(
        f"/site-packages/{library}/" in path.as_posix() or f"/dist-packages/{library}/" in path.as_posix()
        for library in LIBRARIES
    )
    return (
        path.is_file()
        and not inside
        and OWN not in path.parents
        and "/lib/python3" not in path.as_posix().partition("/site-packages/")[0]
    )


def place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The text " at `file:line`: `code`" of the innermost frame in the user's own files, or "" where there is none."""
    frame = next((f for f in reversed(frames) if _is_users(f.filename)), None)
    return f" at {frame.filename}:{frame.lineno}: `{frame.line}`" if frame else ""


def reason(error: BaseException) -> str:
    """One line for an exception of a model or of torch.export."""
    frames = traceback.extract_tb(error.__traceback__)
    where = place(frames)
    kind = type(error).__name__
    if kind in ("GuardOnDataDependentSymNode", "DataDependentOutputException") or "data-dependent" in str(error)[:400]:
        return f"{ON_VALUES}{where}"
    said = first_line(error)
    return f"{said}{where}" if where else said


def hint_for(reasons: Collection[str]) -> str:
    """What to do about a model that cannot be exported for these reasons."""
    if any(text.startswith(ON_VALUES) for text in reasons):
        return (
            "compute both branches and choose with `torch.where`, and keep values in tensors (no `.item()`, `int()` or `.tolist()`), "
            "or wrap the part before it: `file.py:function`; `--verbose` shows what torch says"
        )
    return (
        "wrap or change the part of the model that the message names; `--size HxW` gives another example size, "
        "`--verbose` shows what torch says"
    )


@contextlib.contextmanager
def without_inference_mode() -> Iterator[None]:
    """As in the graph: torch.export leaves `torch.inference_mode()` out of it, other than `torch.no_grad()`."""
    import torch

    kind = torch.inference_mode
    with (
        unittest.mock.patch.object(kind, "__enter__", lambda context: None),
        unittest.mock.patch.object(kind, "__exit__", lambda context, *failure: None),
    ):
        yield


class _Watch:
    """Where the model leaves gradients: `torch.no_grad()`, `detach()` and `.data`."""

    def __init__(self) -> None:
        self.cuts: dict[tuple[str, str], str] = {}
        self.stack = contextlib.ExitStack()

    def note(self, what: str) -> None:
        where = place(traceback.extract_stack()[:-2])
        self.cuts.setdefault((what, where), f"`{what}`{where}")

    def __enter__(self) -> None:
        import torch

        watch = self

        class Functions(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = getattr(function, "__name__", "")
                cuts = name in ("detach", "detach_") or function is torch.Tensor.data.__get__
                if (
                    cuts
                    and isinstance(args[0], torch.Tensor)
                    and args[0].requires_grad
                    and not isinstance(args[0], torch.nn.Parameter)
                ):
                    watch.note("detach()" if "detach" in name else ".data")
                return function(*args, **(kwargs or {}))

        real = torch.no_grad.__enter__

        def enter(context: Any) -> Any:
            if torch.is_grad_enabled():
                watch.note("no_grad()")
            return real(context)

        self.stack.enter_context(unittest.mock.patch.object(torch.no_grad, "__enter__", enter))
        self.stack.enter_context(without_inference_mode())
        self.stack.enter_context(Functions())

    def __exit__(self, *failure: object) -> None:
        self.stack.close()


def gradient_cuts(module: nn.Module, example: Tensor) -> list[str]:
    """What in the model's forward keeps gradients from coming back, one text each with the user's line."""
    import torch

    watch = _Watch()
    with torch.enable_grad(), watch, contextlib.suppress(Exception):
        module(example.clone().requires_grad_())
    return list(watch.cuts.values())


def refuse_random(module: nn.Module, example: Tensor) -> None:
    """Raise `ExportError` for a model that gives other outputs for the same input: no heatmap of it could be had twice."""
    import torch

    # By module path: its first tensor, where it is given one, and its output.
    runs: list[dict[str, tuple[Any, Any]]] = [{}, {}]
    handles: list[Any] = []
    try:
        for run in runs:
            for path, mod in module.named_modules():

                def note(m: nn.Module, args: Any, output: Any, path: str = path, run: dict[str, Any] = run) -> None:
                    if isinstance(output, torch.Tensor):
                        run[path] = args[0] if args and isinstance(args[0], torch.Tensor) else None, output

                handles.append(mod.register_forward_hook(note))
            with torch.no_grad(), quiet():
                run["the output"] = (
                    None,
                    next((leaf for leaf in output_keys(module(example.clone()))[1] if isinstance(leaf, torch.Tensor)), None),
                )
            for handle in handles:
                handle.remove()
    except Exception:  # noqa: BLE001  a model may raise anything; tracing it says why
        return
    finally:
        for handle in handles:
            handle.remove()
    first, second = (run["the output"][1] for run in runs)
    if first is None or differs(first, second) is None:
        return
    # modules end from the inside out: the first one whose input was the same and whose output was not
    culprit = next(
        (
            path
            for path, (given, output) in runs[0].items()
            if path in runs[1]
            and path != "the output"
            and differs(output, runs[1][path][1])
            and not (given is not None and differs(given, runs[1][path][0]))
        ),
        None,
    )
    kind = type(module.get_submodule(culprit)).__name__ if culprit is not None else type(module).__name__
    raise ExportError(
        f"the model is random: two runs on the same input differ by {differs(first, second):.1e} of the largest value, "
        f"from {f'module `{culprit}` ({kind})' if culprit else f'the forward of `{kind}`'} on",
        "dropout and noise are for training: pass `self.training` to functional ones, and let `eval()` switch modules off",
    )


def differs(a: Tensor, b: Tensor) -> float | None:
    """By how much two tensors differ, relative to the largest value; None where it is rounding."""
    import torch

    if a.shape != b.shape:
        return float("inf")
    if not a.is_floating_point():
        return None if torch.equal(a, b) else float("inf")
    gap, scale = (a - b).abs().max().item() if a.numel() else 0.0, max(a.abs().max().item() if a.numel() else 0.0, 1e-6)
    return float(gap / scale) if gap > 1e-5 * scale else None


def input_channels(module: nn.Module, size: Sequence[int]) -> int:
    """How many channels the model's images have: 3 where it takes them, else as its first convolution says."""
    import torch

    convolutions = [(path, mod) for path, mod in module.named_modules() if isinstance(mod, torch.nn.modules.conv._ConvNd)]
    if convolutions and isinstance(convolutions[0][1], torch.nn.Conv3d):
        raise ExportError(
            f"the model is for volumes, not images: its first convolution `{convolutions[0][0]}` is a Conv3d",
            "camflow explains models of images [N, C, H, W]: a volume's or video's heatmap would have a depth or time, which FiftyOne's "
            "heatmaps lack; wrap one that takes a slice or frame: `file.py:function`",
            code=2,
        )
    if (
        convolutions
        and isinstance(convolutions[0][1], torch.nn.Conv1d)
        and not any(isinstance(mod, torch.nn.Conv2d) for _, mod in convolutions)
    ):
        raise ExportError(
            f"the model is for signals, not images: its first convolution `{convolutions[0][0]}` is a Conv1d",
            "camflow explains models of images [N, C, H, W]",
            code=2,
        )
    images = [(path, mod.in_channels) for path, mod in convolutions if isinstance(mod, torch.nn.Conv2d)]
    if not images or images[0][1] == 3:
        return 3
    path, count = images[0]

    def refusal(channels: int) -> str | None:
        try:
            with torch.no_grad(), quiet():
                module(torch.zeros(1, channels, *size))
        except Exception as error:  # noqa: BLE001  it says what it takes by raising
            return str(error)
        return None

    of_three = refusal(3)
    # a model of another size than this fails for any number, but not before its first convolution
    is_of_count = of_three is not None and (f"to have {count} channels, but got 3 channels" in of_three or refusal(count) is None)
    if not is_of_count:
        return 3
    if count <= MAX_CHANNELS:
        return int(count)
    raise ExportError(
        f"the model takes images of {count} channels (its first convolution is `{path}`): camflow feeds up to {MAX_CHANNELS}",
        "wrap it in a module that makes its input of fewer: `file.py:function`",
        code=2,
    )


def ungraded(module: nn.Module, example: Tensor) -> list[str]:
    """Where the model switches gradients off, one text for each place."""
    return [cut for cut in gradient_cuts(module, example) if cut.startswith("`no_grad")]


def say_gradient_cuts(module: nn.Module, example: Tensor) -> None:
    """A warning for a model that no gradient comes back through, with the lines that are the reason."""
    cuts = gradient_cuts(module, example)
    why = f": {'; '.join(cuts[:3])}" if cuts else ""
    say(
        f"warning: no gradient comes back from the output to any layer{why}\n"
        "gradcam and its kin cannot explain it, eigencam and scorecam can; to freeze weights use `requires_grad_(False)`, and let gradients pass"
    )
