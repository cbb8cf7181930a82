"""The archive against the model: outputs at several batch and image sizes, and the value of every layer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gradients import verify_gradients
from .layers import output_keys
from .messages import ExportError, first_line, say
from .sizes import other_sizes

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from torch import Tensor, fx, nn


def signatures(program: ExportedProgram) -> dict[str, str | None]:
    """Module path -> name of the value that its first call returned, for modules that return one tensor."""
    import torch

    names: dict[str, str | None] = {}
    for entry in program.module_call_graph:
        outputs = entry.signature.outputs if entry.signature else []
        if entry.fqn and outputs:
            names.setdefault(entry.fqn.partition("@")[0], getattr(outputs[0], "name", None) if len(outputs) == 1 else None)
    # Modules that take numbers have no signature. As camflow itself does: what a call computes and others use.
    calls: dict[tuple[str, str], set[fx.Node]] = {}
    for node in program.graph.nodes:
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            calls.setdefault((path, key), set()).add(node)
    for (path, _), members in calls.items():
        if path and path not in names:
            outputs = [
                node.name for node in members if set(node.users) - members and isinstance(node.meta.get("val"), torch.Tensor)
            ]
            names[path] = outputs[0] if len(outputs) == 1 else None
    return names


def num_calls(program: ExportedProgram, path: str) -> int:
    """How often the module at `path` is called."""
    stacks = (node.meta.get("nn_module_stack") or {} for node in program.graph.nodes)
    return len({key for stack in stacks for key, (called, _) in stack.items() if called.partition("@")[0] == path})


class OtherSizesError(ExportError):
    """The archive cannot be written with free sizes, or gives what the model gives at the example's size alone."""


def verify(path: Path, module: nn.Module, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Reloads the archive and compares it with the module.

    Gives the "verified" entry of camflow.json, and what is wrong with each layer whose value differs, by path.

    Raises:
        OtherSizesError: they differ at other sizes than the example's.
        ExportError: they differ, or a numbered layer is none of the archive.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nothing here writes to weights
        program = torch.export.load(path)
    values, paths = signatures(program), [layer["path"] for layer in meta["layers"]]
    needed = {
        **{f"layer {k}": v for k, v in meta["aliases"].items()},
        **{f"default layer `{k}`": meta["aliases"].get(k, k) for k in meta["default_layers"]},
    }
    for what, layer in needed.items():
        module_path, _, call = layer.partition("@")
        is_call = not call or (call.isdecimal() and int(call) < num_calls(program, module_path))
        if module_path not in paths or not values.get(module_path) or not is_call:
            raise ExportError(
                f"{what} is `{layer}`, which is no layer of the archive",
                "fix `aliases` or `default_layers` in `camflow_metadata`",
            )
    attention = any("scaled_dot_product" in str(n.target) or "softmax" in str(n.target) for n in program.graph.nodes)
    tolerance = 1e-4 if attention else 1e-5  # relative to the largest value; attention sums in another order per batch size
    graph = program.module(check_guards=False)  # the guards are about shapes that the tracer did not prove, not about results
    worst = {"absolute": 0.0, "relative": 0.0}
    failed: dict[str, str] = {}

    def difference(ours: Tensor, theirs: Tensor) -> str | None:
        if ours.shape != theirs.shape:
            return f"is {list(ours.shape)} in the archive, {list(theirs.shape)} in the model"
        if not ours.numel() or not ours.is_floating_point():
            return None
        if not torch.isfinite(theirs).all():
            return "has values in the model that are no finite numbers"
        gap, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        if not gap <= tolerance * max(scale, 1e-6):  # written so that NaN fails
            return f"differs by {gap:.2e} from the model (largest value {scale:.2e}, allowed {tolerance:.0e} of it)"
        worst.update(absolute=max(worst["absolute"], gap), relative=max(worst["relative"], gap / max(scale, 1e-6)))
        return None

    kind, (batch, channels, height, width) = meta["input"]["dynamic"], meta["input"]["example"]

    def at(shape: list[int]) -> str:
        return "x".join(map(str, shape))

    def refusal(shape: list[int]) -> type[ExportError]:
        return ExportError if shape == meta["input"]["example"] else OtherSizesError

    class Checked(torch.fx.Interpreter):
        """Runs the graph and compares values as they are made: later operators may overwrite them."""

        expected: dict[str | None, list[tuple[str, Tensor]]]

        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            for layer, tensor in self.expected.pop(node.name, ()):
                if wrong := difference(value, tensor):
                    failed[layer] = wrong
            return value

    def check(shape: list[int], hooks: bool = False) -> int:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
        runner = Checked(graph)
        handles: list[Any] = []
        runner.expected = {}
        if hooks:
            # the first call of a module counts, in the hook as in `signatures`
            taken: dict[str, Tensor] = {}
            for layer in set(paths) & set(values):

                def take(mod: nn.Module, args: Any, value: Tensor, layer: str = layer) -> None:
                    taken.setdefault(layer, value.clone())

                handles.append(module.get_submodule(layer).register_forward_hook(take))
        with torch.no_grad():
            try:
                theirs = output_keys(module(x.clone()))[1]  # some write to their input
            finally:
                for handle in handles:
                    handle.remove()
            if hooks:
                for layer, tensor in taken.items():
                    runner.expected.setdefault(values[layer], []).append((layer, tensor))
            count = sum(len(v) for v in runner.expected.values())
            try:
                ours = output_keys(runner.run(x.clone()))[1]
            except Exception as error:
                raise refusal(shape)(
                    f"verification failed: the archive does not run at {at(shape)}: {first_line(error)}"
                ) from error
        for key, a, b in zip(meta["outputs"], ours, theirs, strict=True):
            if isinstance(b, torch.Tensor) and (wrong := difference(a, b)):
                raise refusal(shape)(f"verification failed: output {f'`{key}` ' if key else ''}at {at(shape)} {wrong}")
        return count - sum(len(v) for v in runner.expected.values())

    layers = {path: value for path in paths if (value := values.get(path))}
    example = torch.randn(1 if kind != "none" else batch, channels, height, width, generator=torch.Generator().manual_seed(1))
    shapes, hooks_checked = [], 0
    for n in (1, 3) if kind != "none" else (batch,):
        hooks_checked = max(hooks_checked, check([n, channels, height, width], hooks=n < 3))
        shapes.append([n, channels, height, width])
    same = {path: value for path, value in layers.items() if path not in failed}
    verify_gradients(graph, module, example, same, meta["primary_output"])
    if kind == "bhw":
        for sizes in other_sizes(height, width):
            try:
                with torch.no_grad():
                    module(torch.zeros(1, channels, *sizes[0]))
            except Exception as error:  # noqa: BLE001  the same: it says which sizes it takes by raising
                say(f"the model itself does not take {sizes[0][0]}x{sizes[0][1]}: {first_line(error)}")
                continue
            for size in sizes:
                check([1, channels, *size])
                shapes.append([1, channels, *size])
            break
    if len(shapes) == 2 and kind == "bhw":
        raise OtherSizesError("the model takes no image size but the example's")
    return {
        "shapes": shapes,
        "max_abs_difference": worst["absolute"],
        "max_relative_difference": worst["relative"],
        "hooks_checked": hooks_checked - len(failed),
    }, failed
