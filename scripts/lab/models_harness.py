"""Models as people have them, each exported without options and compared with pytorch_grad_cam: `docs/reference/models-tried.md`.

    models_harness.py --camflow BINARY [--results FILE] [--only MODEL ...] [--family FAMILY ...] [--write FILE]

Each model is exported as its user would, without a word about layers, layouts or sizes. At the layer that is the default then, the
heatmaps of four methods (`camflow explain --exact`) are compared with pytorch_grad_cam's of the PyTorch model, given the same
weights and the same tensor: within 1e-5, or, where fp32 itself cannot hold that, no more than three times as far from fp64 as
the reference in fp32 is. What writes over the layer's activation (a ReLU in place behind DenseNet's last norm) is kept from it, as on
the CPU the reference sees the overwritten one. A picture in a file is explained, too. Weights are random (from a seed, batch norms
warmed), as nothing is downloaded.

Every model has a process of its own and ends by itself after `--timeout` seconds. Its outcome is a line of the results file, so that
a run that was stopped goes on where it was. The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).resolve().parents[up] / folder) for up, folder in ((1, ""), (2, "python"))]
from models_harness_cases import CASES, FAMILIES, Model

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["parity", "torch.export", "torch._dynamo", "torchvision", "timm", "transformers"])
METHODS = ("gradcam", "hirescam", "layercam", "gradcam++")
ALLOWED = 1e-5
EARLIEST = 0.3  # the share of a network's modules that have to be done at the default layer; a decoder may come after it
SMALLEST = 96  # pixels of a side: less, and deep networks have no map left


def export(model: Model, archive: Path, folder: Path) -> None:
    """Writes the archive as the user would."""
    from camflow.export import cli

    reference, flags = model.reference(folder)
    args = cli.parse([reference, "--out", str(archive), "--seed", "0", *flags])
    cli.run(args, lambda line: None, of_program=True)


def eager(model: Model, archive: Path, folder: Path) -> Any:
    """The model itself, with the archive's weights."""
    from camflow.export import cli, load_model

    import torch

    reference, flags = model.reference(folder)
    args = cli.parse([reference, *flags])
    classes = args.classes and args.classes.split(",")
    module = load_model(reference, args.weights, num_classes=args.num_classes, classes=classes).module
    # Not `load_state_dict`: the archive does not say of which version its modules are.
    weights = torch.export.load(archive).state_dict
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(weights[name])
    return module


def compare(binary: Path, model: Model) -> dict[str, Any]:
    """What came of a model: a line of the results file."""
    import numpy as np
    import parity
    from PIL import Image

    import torch

    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    row: dict[str, Any] = {"model": model.name, "family": model.family, "outcome": "export", "reason": ""}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = folder / "model.pt2"
        began = time.monotonic()
        export(model, archive, folder)
        row["seconds"] = round(time.monotonic() - began, 1)
        meta = json.loads(subprocess.run(["unzip", "-p", archive, "*/camflow.json"], check=True, capture_output=True).stdout)
        row["sizes"] = meta["input"]["dynamic"]
        if not meta["default_layers"]:
            return {**row, "outcome": "layer", "reason": "no default layer"}
        label = meta["default_layers"][-1]
        path = meta["aliases"].get(label, label)
        layer = next(layer for layer in meta["layers"] if layer["path"] == path)
        row |= {"layer": path, "layout": layer["layout"], "numbered": len(meta["aliases"]), "outcome": "explain"}

        output = one_output(eager(model, archive, folder), meta["primary_output"]).eval().requires_grad_(True)
        size = tuple(meta["input"]["example"][2:])
        tokens = layer.get("tokens") or meta["tokens"] or {}
        grid, prefix = tokens.get("grid"), tokens.get("prefix", 0)
        if row["sizes"] == "bhw" and not layer["layout"].startswith("tokens"):
            smaller = tuple(max(SMALLEST, side // 2 // 32 * 32) for side in size)
            with contextlib.suppress(RuntimeError), torch.no_grad():  # what a pass costs; some networks want more pixels
                output(parity.picture(*smaller, seed=0))
                size = smaller
        case = parity.Case(
            model.name, (path,), size, layer["layout"], grid and tuple(grid), prefix, meta["task"] == "segmentation"
        )
        pixels = parity.picture(*size, seed=sum(map(ord, model.name)))
        scores, before = passed(output, path, pixels)
        row["before"] = round(before, 2)
        # in a mask 0 is what has no class
        channel = int(scores[1:].flatten(1).mean(1).argmax()) + 1 if scores.ndim > 1 else int(scores.argmax())
        mask = np.zeros(size, np.uint8)
        mask[size[0] // 4 : -8, 8 : -size[1] // 3] = 1
        try:
            found = parity.camflow_maps(binary, archive, case, case.layers, pixels, mask, channel, METHODS, ["--exact"])
        except RuntimeError as error:
            return {**row, "reason": first_error(str(error))}
        differences, flat = {}, []
        for method in METHODS:
            expected = reference(case, output, path, pixels, mask, channel, method)
            ours = found[method, path]
            gap = float(np.abs(ours - expected).max())
            if not gap <= ALLOWED and overwrites(output, path, pixels):
                # on the CPU the reference sees what the module after it wrote over the activation; on a GPU it does not
                expected = reference(case, apart(output, path), f"{path}.0", pixels, mask, channel, method)
                gap, row["overwritten"] = float(np.abs(ours - expected).max()), True
            if not gap <= ALLOWED:  # how far is fp32 itself from fp64, and who is farther?
                double = one_output(eager(model, archive, folder), meta["primary_output"]).eval().double().requires_grad_(True)
                truth = reference(case, double, path, pixels.double(), mask, channel, method)
                theirs, mine = (float(np.abs(single - truth).max()) for single in (expected, ours))
                row.setdefault("from_fp64", {})[method] = [mine, theirs]
                if gap <= theirs or mine <= 3 * theirs:
                    gap = ALLOWED
            differences[method] = gap
            flat += [method] if not ours.any() else []
        row |= {"differences": differences, "flat": flat}
        if before < EARLIEST:
            return {
                **row,
                "outcome": "layer",
                "reason": f"only {before:.0%} of the network come before the default layer `{path}`",
            }
        if len(flat) == len(METHODS):
            return {**row, "reason": "the heatmaps of all methods are zero"}
        if wrong := [f"{method} {gap:.1e}" for method, gap in differences.items() if not gap <= ALLOWED]:
            return {**row, "outcome": "numbers", "reason": f"from pytorch_grad_cam: {', '.join(wrong)}"}

        levels = (np.random.default_rng(0).random((30, 40, 3)) * 255).astype(np.uint8)
        Image.fromarray(levels).resize((400, 300)).save(folder / "picture.jpg")
        command = [
            binary,
            "explain",
            folder / "picture.jpg",
            "--model",
            archive,
            "--class",
            str(channel),
            "--out",
            folder / "maps",
        ]
        command += ["--device", "cpu"]
        if case.segmentation:
            np.save(folder / "mask.npy", np.full((300, 400), channel, np.uint8))
            command += ["--mask", folder / "mask.npy"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            return {**row, "outcome": "picture", "reason": first_error(done.stderr)}
    return {**row, "outcome": "ok"}


def passed(output: Any, path: str, pixels: Any) -> tuple[Any, float]:
    """(scores of the image, the share of the modules without others in them that have been called when the layer is done)."""
    import torch

    called: list[str] = []
    handles = [
        mod.register_forward_hook(lambda mod, given, found, at=at: called.append(at))
        for at, mod in output.model.named_modules()
        if at == path or not list(mod.children())
    ]
    with torch.no_grad():
        scores = output(pixels)[0]
    for handle in handles:
        handle.remove()
    return scores, called.index(path) / max(len(called) - 1, 1)


def one_output(module: Any, index: int) -> Any:
    """The model with the one output that is explained."""
    from camflow.export.layers import output_keys

    import torch

    class Output(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, pixels: Any) -> Any:
            return output_keys(self.model(pixels))[1][index]

    return Output()


def reference(case: Any, output: Any, path: str, *arguments: Any) -> Any:
    """pytorch_grad_cam's heatmap at a layer of the model."""
    import grad_cam_reference

    return grad_cam_reference.reference_map(case, output, [output.model.get_submodule(path)], *arguments, eigen=False, aug=False)


def overwrites(output: Any, path: str, pixels: Any) -> bool:
    """Whether something behind a layer writes over its activation."""
    import torch

    taken: list[torch.Tensor] = []
    handle = output.model.get_submodule(path).register_forward_hook(
        lambda mod, given, found: taken.extend([found, found.clone()])
    )
    with torch.no_grad():
        output(pixels)
    handle.remove()
    return not torch.equal(*taken[:2])


def apart(output: Any, path: str) -> Any:
    """The same model with a copy behind the layer, which is at `PATH.0` then."""
    import copy

    import torch

    class Copy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

    copied = copy.deepcopy(output)
    above, _, name = path.rpartition(".")
    setattr(copied.model.get_submodule(above), name, torch.nn.Sequential(copied.model.get_submodule(path), Copy()))
    return copied


def first_error(said: str) -> str:
    """The first line of an error with its hint's."""
    lines = [line for line in said.splitlines() if line.startswith(("error", "hint", "caused"))] or said.splitlines()[-2:]
    return " / ".join(lines)[:400]


def one(binary: Path, model: Model, line: Connection) -> None:
    """What the process of one model does: sends its outcome."""
    try:
        row = compare(binary, model)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the outcome of this model
        if os.environ.get("CAMFLOW_TRACEBACK"):
            raise
        hint = getattr(error, "hint", None)
        said = " ".join(str(error).split())[:300] + (f" / hint: {hint}" if hint else "")
        row = {"model": model.name, "family": model.family, "outcome": "failed", "reason": f"{type(error).__name__}: {said}"}
    line.send(row)


def outcome(binary: Path, model: Model, timeout: float) -> dict[str, Any]:
    """What came of a model in a process of its own, which begins with what all of them need."""
    row = {"model": model.name, "family": model.family}
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = PROCESSES.Process(target=one, args=(binary, model, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return {**row, "outcome": "timeout", "reason": f"took more than {timeout:.0f} s"}
        found: dict[str, Any] = ours.recv()
        return found
    except EOFError:
        process.join()
        return {**row, "outcome": "crash", "reason": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    lines = [
        "# Models that were tried",
        "",
        "Made by `scripts/lab/models.sh`. " + " ".join(__doc__.partition("\n\n    models_harness")[2].split("\n\n")[1].split()),
        "",
        f"{len(rows)} of the harness's {len(CASES)} models have been run so far.",
        "",
        "| family | models | right | share |",
        "|---|---|---|---|",
    ]
    for family in FAMILIES:
        of = [row for row in rows if row["family"] == family]
        right = sum(row["outcome"] == "ok" for row in of)
        if of:
            lines.append(f"| {family} | {len(of)} | {right} | {right / len(of):.0%} |")
    right = sum(row["outcome"] == "ok" for row in rows)
    lines += [f"| all | {len(rows)} | {right} | {right / max(len(rows), 1):.0%} |", "", "## Not right", ""]
    failed = [row for row in rows if row["outcome"] != "ok"]
    lines += [f"- `{row['model']}` ({row['family']}, {row['outcome']}): {row['reason']}" for row in failed] or ["None."]
    lines += [
        "",
        "## All",
        "",
        "Of each the default layer, how it is laid out, which sizes are free (batch, height and width: `bhw`), and the largest "
        + "difference to pytorch_grad_cam at this layer.",
        "",
        "| model | family | default layer | layout | sizes | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        largest = f"{max(row['differences'].values()):.0e}" if "differences" in row else ""
        cells = (
            f"`{row['model']}`",
            row["family"],
            f"`{row.get('layer', '')}`",
            row.get("layout", ""),
            row.get("sizes", ""),
            largest,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Tries the models that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines, gone on with where it is there")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL")
    parser.add_argument("--family", nargs="*", default=[], metavar="FAMILY", choices=FAMILIES)
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    args = parser.parse_args()
    if unknown := set(args.only) - {model.name for model in CASES}:
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    wanted = [m for m in CASES if (not args.only or m.name in args.only) and (not args.family or m.family in args.family)]
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results and args.results.exists() else []
    by_name = {row["model"]: row for row in known}
    for model in wanted:
        if model.name not in by_name:
            row = by_name[model.name] = outcome(args.camflow, model, args.timeout)
            if args.results:
                with args.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        row = by_name[model.name]
        print(f"{row['outcome']:8} {row['family']} {row['model']} {row.get('layer', '')} {row['reason']}", flush=True)
    rows = [by_name[model.name] for model in wanted]
    if args.write:
        args.write.write_text(page(rows))
    failed = sum(row["outcome"] != "ok" for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
