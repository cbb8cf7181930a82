"""The archive's gradients against the model's: autograd makes the backward of a graph, whatever backward the model has of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .layers import output_keys
from .messages import ExportError, first_line
from .reasons import without_inference_mode

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

IMAGE = "the image"
# Of the larger gradient's length. Rounding that flips a few ReLUs is far below, a backward of the model's own far above.
TOLERANCE = 0.1
HINT = (
    "write what the backward does into the forward, as `x + (f(x) - x).detach()`, which has the value of f and the gradient of x; "
    "leave out under `self.training` what only training needs"
)


def verify_gradients(graph: fx.GraphModule, module: nn.Module, image: Tensor, layers: dict[str, str], output: int) -> None:
    """Compares the gradients of a mix of all scores at the image and at `layers`: by path the name of the layer's value in the graph.

    Where the model cannot be differentiated, nothing is compared.

    Raises:
        ExportError: they differ, as the model has a backward that is not the derivative of its forward.
    """
    import torch

    with torch.enable_grad(), without_inference_mode():
        try:
            theirs, functions = _of_module(module, image, layers, output)
        except Exception:  # noqa: BLE001  a model may raise anything; `feeding` has said it
            return
        try:
            ours = _of_graph(graph, image, layers, output)
        except RuntimeError as error:
            raise ExportError(
                f"verification failed: the model has gradients, and its archive has none: {first_line(error)}", HINT
            ) from error
    for place, expected in theirs.items():
        found = ours.get(place)
        if found is None or found.shape != expected.shape or not torch.isfinite(expected).all():
            continue
        found = found.nan_to_num()
        gap = float((found - expected).norm() / torch.maximum(found.norm(), expected.norm()).clamp(min=1e-30))
        if gap > TOLERANCE:
            named = f" ({', '.join(f'`{name}`' for name in functions)})" if functions else ""
            raise ExportError(
                f"verification failed: the gradient at {place} is another one in the archive, by {gap:.0%} of its length: the model "
                f"has a backward of its own, in an `autograd.Function`{named} or a hook, and an archive holds none",
                HINT,
            )


class _Taken:
    """Values as they are at a place, and what comes after them with a gradient: others may write into a copy."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def take(self, place: str, value: Any) -> Any:
        import torch

        if place in self.values or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        self.values[place] = value if value.requires_grad else value.detach().requires_grad_()
        return self.values[place].clone()

    def gradients(self, scores: Any) -> dict[str, Tensor]:
        import torch

        if not (isinstance(scores, torch.Tensor) and scores.requires_grad):
            return {place: torch.zeros_like(value) for place, value in self.values.items()}
        mix = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0), dtype=scores.dtype)
        found = torch.autograd.grad((scores * mix).sum(), list(self.values.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(self.values, found, strict=True))


def _of_module(module: nn.Module, image: Tensor, layers: Collection[str], output: int) -> tuple[dict[str, Tensor], list[str]]:
    """The gradients, and the names of the functions whose backward the model wrote itself."""
    import torch

    taken = _Taken()
    given: dict[str, list[tuple[int, int]]] = {}
    handles: list[Any] = []

    def version_of(value: Any) -> tuple[int, int]:
        return (id(value), value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0)

    for path in layers:

        def look(mod: nn.Module, args: Any, path: str = path) -> None:
            given[path] = [version_of(value) for value in args]

        def take(mod: nn.Module, args: Any, value: Any, path: str = path) -> Any:
            # What a module hands on as it is, an Identity, is another one's value, and has its gradient: of all that reads it.
            if version_of(value) in given[path]:
                return value
            return taken.take(f"layer `{path}`", value)

        handles.append(module.get_submodule(path).register_forward_pre_hook(look))
        handles.append(module.get_submodule(path).register_forward_hook(take))
    try:
        scores = output_keys(module(taken.take(IMAGE, image.clone())))[1][output]
    finally:
        for handle in handles:
            handle.remove()
    return taken.gradients(scores), _own_functions(getattr(scores, "grad_fn", None))


def _of_graph(graph: fx.GraphModule, image: Tensor, layers: dict[str, str], output: int) -> dict[str, Tensor]:
    import torch

    taken = _Taken()
    places: dict[str, list[str]] = {}
    for path, value in layers.items():
        places.setdefault(value, []).append(f"layer `{path}`")

    class Taking(torch.fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            for place in places.get(node.name, ()):
                value = taken.take(place, value)
            return value

    scores = output_keys(Taking(graph).run(taken.take(IMAGE, image.clone())))[1][output]
    return taken.gradients(scores)


def _own_functions(last: Any) -> list[str]:
    """The names of the `autograd.Function`s on the way back from a node of autograd's graph."""
    import torch

    names: dict[str, None] = {}
    seen, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = type(node).__name__.removesuffix("Backward")
        if isinstance(node, torch.autograd.function.BackwardCFunction) and name != "BackwardHookFunction":
            names[name] = None
        waiting += [before for before, _ in node.next_functions]
    return list(names)
