"""Whether a model's heatmaps can be trusted: `camflow check-model`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .collection import environment
from .explanations import image_files
from .messages import logger
from .models import Preprocess, reference
from .process import INTERRUPTED, CamflowError, find
from .settings import flags, names

# Exit code: done, but for images that could not be checked; with `strict=True` also where a check failed.
SOME_FAILED = 1
# As many images as are checked at most where nobody says how many.
SAMPLES = 8


@dataclass(frozen=True)
class ModelCheck:
    """What checking a model came to."""

    # The worst verdict of all methods and layers: "passed", "weak" or "failed"; None where nothing could be checked.
    verdict: str | None
    # One entry for each method and layer: "method", "layer", "path", "verdict", and by name "checks", each with "verdict", "figure"
    # and counts.
    columns: list[dict[str, Any]]
    # All that `camflow check-model --json` writes: figures of single heatmaps, too.
    numbers: dict[str, Any] = field(repr=False)
    _text: str = field(repr=False)

    def __str__(self) -> str:
        """The tables and what they mean, in words."""
        return self._text


def check_model(
    model: Any,
    images: Any,
    classes: str | Iterable[str] | None = None,
    *,
    layers: str | int | Iterable[str | int] | None = None,
    method: str | Iterable[str] | None = None,
    class_names: Iterable[str] | None = None,
    preprocess: Preprocess | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> ModelCheck:
    """Checks on a handful of images whether a model's heatmaps can be trusted.

    Args:
        model: as for `compute_heatmaps`
        images: one image or a list of them, as for `explain`; or a dataset or view of FiftyOne, of which some samples are chosen
        classes: the classes to explain; by default the model's first for each image
        layers: numbers ("1-4") or module paths; by default the model's last that carries space
        method: "gradcam", or others of the Grad-CAM family
        class_names: the names of the model's classes, where it does not carry them
        preprocess: how images are prepared, where the model does not say
        out: a folder for heatmaps and contact sheets, if they are wanted
        settings: any other flag of `camflow check-model`, such as `samples=4`, `steps=0` or `threshold="flip=0.8,0.5"`

    Returns:
        a verdict for each method and layer, with the figures

    Raises:
        CamflowError: nothing could be checked, with what to do about it
        ExportError: the model cannot be exported
        TypeError: something is no image
        KeyboardInterrupt: it was interrupted
    """
    program = find()
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        numbers = Path(folder) / "numbers.json"
        arguments = ["check-model", f"--json={numbers}", *names(classes, "--class"), *names(layers, "--layers")]
        arguments += names(method, "--method") + flags({"out": out and Path(out).absolute(), **settings})
        env = None
        files: list[str] = []
        if hasattr(images, "_root_dataset"):
            env = environment()
            if images is images._root_dataset:
                arguments.append(f"--dataset={images.name}")
            else:
                # The program chooses among the samples of a whole dataset alone.
                files = images.take(settings.get("samples", SAMPLES), seed=0).values("filepath")
        else:
            files = image_files(images, folder)
        # Behind `--` nothing is a flag.
        named = ["--", reference(model, program, class_names, preprocess), *files]
        done = subprocess.run([program, *arguments, *named], env=env, capture_output=True, text=True, check=False)
        if done.returncode == INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode not in (0, SOME_FAILED) or not numbers.exists():
            raise CamflowError((done.stderr.partition("error: ")[2] or done.stderr).strip())
        found = json.loads(numbers.read_text())
    for line in done.stderr.splitlines():
        label, _, _ = line.partition(": ")
        if label in ("warning", "error"):
            logger.warning("%s", line)
        elif label == "note":
            logger.info("%s", line)
    order = {"passed": 0, "weak": 1, "failed": 2}
    verdicts = [column["verdict"] for column in found["columns"] if column["verdict"]]
    return ModelCheck(
        verdict=max(verdicts, key=order.__getitem__, default=None),
        columns=found["columns"],
        numbers=found,
        _text=done.stdout.strip(),
    )
