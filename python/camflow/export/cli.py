"""Turn a PyTorch model into a camflow model: one `.pt2` archive that holds the graph, the weights and `camflow.json`.

    python -m camflow.export deeplabv3-resnet50-coco-torch   a FiftyOne zoo model      (prefix `fiftyone:` to insist)
    python -m camflow.export resnet50 --weights none         a torchvision model       (prefix `torchvision:`)
    python -m camflow.export deit_tiny_patch16_224           a timm model              (prefix `timm:`)
    python -m camflow.export google/vit-base-patch16-224     a Hugging Face model, or a folder of one (prefix `hf:`)
    python -m camflow.export my_models.py:build              any function that returns an `nn.Module`
    python -m camflow.export --arch timm:resnet18 --checkpoint best.pth --classes labels.txt
                                                             a checkpoint; `smp:unet:resnet34` is segmentation-models-pytorch's

A function's module may carry a dict `camflow_metadata` with any of: task, classes, preprocess, aliases, default_layers,
layers, tokens, primary_output, example ([H, W]), inputs (of the forward beside the image). What it gives is taken as it is; the rest is found from the module.
`layers` lists paths, or entries {path, layout: nchw | nhwc | tokens | tokens_first, tokens: {grid: [rows, columns], prefix}}.

Of a forward that returns a dict or an object the output `out`, `logits` or the first is explained; `--output` names another.

The archive is checked against the model before it gets its name: outputs at several batch and image sizes, and the
value of every layer. Exit codes: 0 written, 1 failed (nothing was replaced), 2 wrong arguments or an unknown model.
As a library: `camflow.export.load_model(ref)` gives a `LoadedModel`, `export(loaded, path)` writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .archive import export
from .classes import read_classes
from .constants import read_input
from .loading import TASKS, load_model
from .messages import ExportError, first_line, say
from .preprocess import SAMPLES
from .texts import embed
from .transforms import steps_from_flags

# What `camflow export` takes itself.
OF_PROGRAM = {
    *("--arch", "--checkpoint", "--weights", "--classes", "--prompt", "--preprocess", "--mean", "--std", "--resize", "--size"),
    *("--samples", "--letterbox", "--output", "--input", "--task", "--force", "--out"),
}


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found or not 0 < int(found[1]) < 1 << 15 or not 0 < int(found[2]) < 1 << 15:
        raise argparse.ArgumentTypeError(f"`{text}` is not a size: write height x width, such as 520x693")
    return int(found[1]), int(found[2])


def _resize(text: str) -> list[int]:
    return [int(text)] if text.isdecimal() and 0 < int(text) < 1 << 15 else list(_size(text))


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not numbers with commas, such as 0.5,0.5,0.5") from None


def _layout(text: str) -> tuple[str, dict[str, Any]]:
    """`PATH=nchw`, `PATH=nhwc`, `PATH=tokens`, `PATH=tokens:14x14` or `PATH=tokens_first:14x14+1` as (path, layer entry)."""
    found = re.fullmatch(r"([\w.]+)=(?:(nchw|nhwc|tokens|tokens_first)|(tokens|tokens_first):(\d+)x(\d+)(?:\+(\d+))?)", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"`{text}` is no layout: write PATH=nchw, PATH=nhwc, PATH=tokens:ROWSxCOLUMNS+PREFIX, or tokens_first"
        )
    path, layout, of_tokens, rows, columns, prefix = found.groups()
    if layout:
        return path, {"layout": layout}
    return path, {"layout": of_tokens, "tokens": {"grid": [int(rows), int(columns)], "prefix": int(prefix or 0)}}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, those of this process for None; ends the process where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m camflow.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a model's name, a folder of Hugging Face, module:function, file.py:function or a file",
    )
    parser.add_argument(
        "--arch",
        metavar="LIBRARY:NAME",
        help="the network of a checkpoint, in place of MODEL: timm:resnet18, torchvision:resnet50, smp:unet:resnet34, hf:FOLDER",
    )
    parser.add_argument("--out", metavar="FILE", help="the archive to write (default: NAME.pt2 in this folder; a folder is fine)")
    parser.add_argument("--name", help="the model's name in the archive (default: its own)")
    parser.add_argument(
        "--checkpoint",
        "--weights",
        dest="weights",
        default="default",
        metavar="FILE|default|none",
        help="weights of your own, the published ones, or random ones",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of --warm-batchnorm's noise")
    parser.add_argument(
        "--warm-batchnorm", type=int, default=0, metavar="N", help="N passes of noise to set batch norms' statistics"
    )
    parser.add_argument("--size", type=_size, metavar="HxW", help="example image size (default: what the model is made for)")
    parser.add_argument("--static-size", action="store_true", help="do not let height and width vary")
    parser.add_argument(
        "--layout",
        type=_layout,
        action="append",
        default=[],
        metavar="PATH=LAYOUT",
        help="how a layer's output lies over the image, where the guess from its shape is wrong: "
        "nchw, nhwc, tokens:ROWSxCOLUMNS+PREFIX, or tokens_first for [T, N, C]; may be repeated",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes of the weights, for a zoo, torchvision or timm name (default: as in the file)",
    )
    parser.add_argument(
        "--classes", metavar="NAMES", help="their names in the order of the channels: a file (JSON, or one name a line), or a,b,c"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="of each class, the text that a CLIP-like model scores, such as 'a photo of a {}'"
    )
    parser.add_argument(
        "--preprocess",
        metavar="imagenet|none|FILE",
        help="how images are preprocessed: ImageNet's usual way, samples in [0, 1], "
        "or a JSON file of steps or of Hugging Face (default: what the model says)",
    )
    parser.add_argument(
        "--mean", type=_numbers, metavar="M,M,M", help="of samples in [0, 1]; one number for all channels will do"
    )
    parser.add_argument("--std", type=_numbers, metavar="S,S,S", help="likewise")
    parser.add_argument("--resize", type=_resize, metavar="HxW|N", help="resize images to this, or their smaller side")
    parser.add_argument(
        "--letterbox",
        type=_resize,
        metavar="HxW|N",
        help="resize images to fit in this and pad them with gray, as Ultralytics does",
    )
    parser.add_argument(
        "--pad-multiple", type=int, metavar="N", help="pad images at the bottom and right so that their sides are multiples of N"
    )
    parser.add_argument(
        "--samples",
        choices=tuple(SAMPLES),
        help="the range of samples in image files (16-bit, several bands, floating point, .npy), which are then read at full depth",
    )
    parser.add_argument(
        "--channels", type=int, metavar="N", help="of those files (default: the model's); gray and colour are made of each other"
    )
    parser.add_argument("--bgr", action="store_true", help="the model takes blue, green, red; so do --mean and --std")
    parser.add_argument(
        "--no-rescale", action="store_true", help="samples are not divided by their largest: --mean and --std are of 0 to 255"
    )
    parser.add_argument(
        "--output",
        "--primary-output",
        dest="primary_output",
        metavar="KEY",
        help="the output to explain, by key or number (default: out, logits, or the first)",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the model takes beside the image, the same for all of them: a number, true, false, none, a list or a .npy file; "
        "may be repeated",
    )
    parser.add_argument(
        "--task",
        choices=TASKS[:4],
        help="what the output means: scores of classes, of the image or of its pixels, numbers of a regression, or an embedding "
        "(default: what the model says, else scores of classes)",
    )
    parser.add_argument(
        "--measure-with",
        metavar="CAMFLOW",
        help="the program that measures how the archive behaves when it is run; `camflow export` gives itself",
    )
    parser.add_argument(
        "--image-tower",
        action="store_true",
        help="of a CLIP-like model the part that embeds images, for texts that `--text` names later; `--task embedding` of one is the same",
    )
    parser.add_argument(
        "--embed-texts",
        metavar="FILE",
        help="export nothing, but embed the texts of a JSON file for MODEL, the archive of an image tower; `--text` does it",
    )
    parser.add_argument("--force", action="store_true", help="replace the archive if it is there")
    parser.add_argument("--verbose", action="store_true", help="show what torch says while it exports")
    parser.add_argument("--format", choices=("human", "json"), default="human", help="of the last line, on stdout")
    args = parser.parse_args(argv)
    if args.model is None and args.arch is None:
        parser.error("name a model: MODEL, or --arch with --checkpoint")
    return args


def run(args: argparse.Namespace, emit: Callable[[str], None], of_program: bool = False) -> None:
    """Does what the command line asks; `emit` gets the line for stdout. `of_program` is as for `main`.

    Raises:
        ExportError: nothing was written, and nothing replaced.
    """
    if args.out and not args.out.endswith(".pt2") and not (args.out.endswith("/") or os.path.isdir(args.out)):
        raise ExportError(f"`{args.out}` does not end in `.pt2`", code=2)
    if args.warm_batchnorm < 0:
        raise ExportError("`--warm-batchnorm` takes a number of passes, 0 or more", code=2)

    if args.arch:
        if args.model is not None and args.weights == "default" and os.path.isfile(args.model):
            args.weights, args.model = args.model, None  # `export best.pth --arch timm:resnet18`
        if args.model is not None:
            raise ExportError("`--arch` stands in place of MODEL: give one of them", code=2)
        if args.weights == "default":
            raise ExportError(
                f"`--arch {args.arch}` is a network without weights",
                f"`--checkpoint FILE` gives yours; `camflow export {args.arch}` takes the published ones",
                code=2,
            )
        args.model = args.arch

    def target(name: str) -> Path:
        return (
            Path(args.out)
            if args.out and args.out.endswith(".pt2")
            else Path(args.out or ".") / (re.sub(r"[^\w.@-]+", "_", name) + ".pt2")
        )

    def refuse(path: Path) -> None:
        if path.exists() and os.path.isfile(args.model) and path.samefile(args.model):
            raise ExportError(f"`{path}` is the program itself", "choose another file with `--out`", code=2)
        if path.exists() and not args.force:
            raise ExportError(f"`{path}` is already there", "replace it with `--force`, or choose another with `--out`", code=2)

    is_path = os.path.exists(args.model)
    guess = args.name or (Path(args.model).resolve().stem if is_path else args.model.rpartition(":")[2])
    refuse(target(guess))  # before minutes of work
    steps = steps_from_flags(
        args.preprocess,
        args.mean,
        args.std,
        args.resize,
        letterbox=args.letterbox,
        pad_multiple=args.pad_multiple,
        samples=args.samples,
        channels=args.channels,
        bgr=args.bgr,
        rescale=not args.no_rescale,
    )
    classes = None if args.classes is None else read_classes(args.classes)
    inputs = dict(map(read_input, args.input))
    task = "embedding" if args.image_tower else args.task
    loaded = load_model(args.model, args.weights, args.seed, args.num_classes, classes, steps, args.prompt, inputs, task)
    if args.image_tower and loaded.texts is None:
        raise ExportError(
            f"`{args.model}` has no text tower, so texts cannot be scored with it",
            "name a CLIP-like model: a CLIP or SigLIP of Hugging Face or of FiftyOne's zoo, such as `clip-vit-base32-torch`",
            code=2,
        )
    loaded.name = args.name or loaded.name
    path = target(loaded.name)
    meta = export(
        loaded,
        path,
        args.size,
        args.static_size,
        args.primary_output,
        args.warm_batchnorm,
        args.seed,
        dict(args.layout),
        args.verbose,
        args.measure_with,
    )
    verified = meta["verified"]
    if args.format == "json":
        emit(
            json.dumps(
                {
                    "path": str(path),
                    "name": meta["name"],
                    "source": meta["source"],
                    "task": meta["task"],
                    "layers": len(meta["layers"]),
                    "default_layers": meta["default_layers"],
                    "classes": len(meta["classes"]),
                    "dynamic": meta["input"]["dynamic"],
                    "size_bytes": path.stat().st_size,
                    "max_abs_difference": verified["max_abs_difference"],
                    "hooks_checked": verified["hooks_checked"],
                }
            )
        )
    else:
        aliases = ", ".join(f"{k} {v}" for k, v in list(meta["aliases"].items())[-4:])
        emit(
            f"{path}: {meta['name']}, {meta['task']}, {len(meta['layers'])} layers ({aliases}), sizes free: {meta['input']['dynamic']}; "
            f"checked at {len(verified['shapes'])} sizes and {verified['hooks_checked']} layers, largest difference {verified['max_abs_difference']:.1e}"
        )


def main(argv: Sequence[str] | None = None, of_program: bool = False) -> int:
    """Exports what the arguments say; gives the exit code.

    With `of_program` it is `camflow export`, which takes these arguments behind its own.
    """
    args = parse(argv)
    # Libraries print on import (FiftyOne its notices, hubs their progress), some below Python: move the descriptor itself
    sys.stdout.flush()
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        if args.embed_texts:
            embed(Path(args.model), Path(args.embed_texts))
        else:
            run(args, lambda line: print(line, file=result, flush=True), of_program)
        return 0
    except ExportError as error:
        say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        if of_program and set(re.findall(r"`(--[a-z-]+)", f"{error} {error.hint}")) - OF_PROGRAM:
            say("other arguments of the exporter come after ` -- `")
        return error.code
    except ImportError as error:
        say(
            f"error: a Python package is missing: {first_line(error)}\nhint: run this with the Python that has torch, torchvision and FiftyOne"
        )
        return 1
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return 130
    except Exception as error:
        what = "embedding texts with" if args.embed_texts else "exporting"
        say(f"error: {what} `{args.model}` failed: {type(error).__name__}: {first_line(error)}")
        if os.environ.get("CAMFLOW_TRACEBACK"):
            raise
        say("hint: CAMFLOW_TRACEBACK=1 shows where")
        return 1
