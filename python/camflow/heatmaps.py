"""Heatmaps for a dataset or a view: `camflow annotate` beside this process, with its progress here."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .collection import check_samples, environment, selection
from .ledger import Ledger
from .messages import logger, tell
from .models import Preprocess, reference
from .process import INTERRUPTED, CamflowError, Run, find
from .settings import flags, names, sentences, texts

if TYPE_CHECKING:
    import fiftyone as fo

# Seconds between two looks at whether somebody interrupts.
BEAT = 0.2
# What was said of so many failed samples is kept.
KEPT_FAILURES = 100


@dataclasses.dataclass(frozen=True)
class Failure:
    """A sample that could not be explained."""

    sample_id: str
    filepath: str
    # read, decode, device, encode or commit
    stage: str
    error: str
    # So it did in the run before, with the same inputs.
    is_known: bool


@dataclasses.dataclass(frozen=True)
class HeatmapsResult:
    """What became of the samples of a call of `compute_heatmaps`.

    Every sample that was read was annotated, was skipped (`skipped`: how many, by reason) or has failed. With `dry_run=True` none
    was annotated, and the text says how many would be.
    """

    dataset: str
    # The `fo.Heatmap` fields, in the order of classes, methods and layers.
    fields: list[str]
    num_read: int
    num_annotated: int
    num_heatmaps: int
    num_skipped: int
    num_failed: int
    skipped: dict[str, int]
    # The first hundred.
    failures: list[Failure]
    elapsed_seconds: float
    _lines: list[str] = dataclasses.field(default_factory=list, repr=False)

    def __str__(self) -> str:
        """The counts in words, with the reasons."""
        return "\n".join(self._lines)


def compute_heatmaps(
    samples: fo.core.collections.SampleCollection,
    model: Any,
    classes: str | Iterable[str] | None = None,
    label_field: str | None = None,
    *,
    target: str | None = None,
    text: str | Iterable[str] | None = None,
    text_template: str | None = None,
    layers: str | int | Iterable[str | int] | None = None,
    method: str | Iterable[str] | None = None,
    class_names: Iterable[str] | None = None,
    preprocess: Preprocess | None = None,
    field: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Any], None] | None = None,
    skip_failures: bool = True,
    **settings: Any,
) -> HeatmapsResult:
    """Computes class-activation heatmaps for samples, and stores them in `fo.Heatmap` fields of theirs.

    Heatmaps that are up to date (same model, settings, image and label) are kept, so calling it again costs next to nothing.

    Args:
        samples: a dataset, or any view of one; it need not be saved. What a view shows of labels is what counts
        model: an `fo.Model` of the zoo, an `nn.Module`, the path of an exported `.pt2`, or a name: of FiftyOne's zoo, torchvision,
            timm, or a `file.py:function`. What is no archive yet is exported to the cache, once for the same content; the model itself
            is left as it is
        classes: the classes to explain, by name, or "all". Not needed with `target="top"` or "wrong", or labels that are one class a sample
        label_field: the labels that say which samples, and which pixels of them, are of a class. Without it and `target`, the one
            field of labels that there is
        target: instead of labels: "predicted" (where the model sees the class), "top" (the model's first class), "wrong:FIELD"
            (what a classifier gets wrong by that field: the predicted class, the true one and their difference), "pixel=X,Y",
            "component" (a number of a regression), or "similar=FILE" and "similar:FIELD" (how near an embedding is to the file's, or to
            the mean of a class)
        text: with a CLIP-like model, the texts to explain: each has a heatmap of every image, whatever its labels
        text_template: with a CLIP-like model, what makes a text of each class, such as "a photo of a {}"
        layers: numbers ("1-4") or module paths; by default the model's last that carries space
        method: "gradcam", or others of the Grad-CAM family; several in one pass
        class_names: the names of the model's classes, in the order of its outputs, where it does not carry them
        preprocess: how images are prepared, where the model does not say: "imagenet", transforms of torchvision, or a list of steps
        field: template for the fields' names, of {class}, {layer}, {method} and {model}
        out: folder for the files; by default one of the user's data folder, which is the dataset's
        progress: whether to show a progress bar, or a function that it is given to; as in FiftyOne
        skip_failures: whether a sample that cannot be explained costs only itself
        settings: any other flag of `camflow annotate`, such as `store="inline"`, `faithfulness=True`, `counterfactuals="impute"`,
            `attention_on="ground_truth"`, or `predictions="predictions"` for a field with what the model predicts

    Returns:
        the fields, and what became of the samples

    Raises:
        CamflowError: nothing could be done, with what to do about it; or a sample failed and `skip_failures` is off
        ExportError: the model cannot be exported
        KeyboardInterrupt: it was interrupted; what was computed by then is stored, and the next call goes on from there
    """
    import fiftyone as fo

    check_samples(samples)
    if label_field is not None:
        if target is not None:
            raise ValueError("`label_field` is the target: leave out `target`")
        target = f"labels:{label_field}"
    program = find()
    if samples.media_type == fo.core.media.GROUP:
        samples = samples.select_group_slices(media_type="image")
    of_labels = target.startswith(("labels", "wrong")) if target else text is None
    files = selection(samples, of_labels=of_labels or bool(settings.get("attention_on")))
    arguments = ["annotate", "--format=json", f"--dataset={samples._root_dataset.name}"]
    arguments += names(classes, "--class") + names(layers, "--layers") + names(method, "--method")
    arguments += flags({"target": target, "field": field, "out": out and Path(out).absolute(), **settings})
    arguments += texts(text, text_template)
    arguments.append(
        f"--model={reference(model, program, class_names, preprocess, sentences(text or classes, text_template, text))}"
    )
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        report = Path(folder) / "report.json"
        ledger = _follow(program, [*arguments, f"--report-file={report}"], files, progress)
        written = json.loads(report.read_text()) if report.exists() else {}
    samples._root_dataset.reload()
    if isinstance(samples, fo.DatasetView):
        samples.reload()
    if ledger.num_failed and not skip_failures:
        raise CamflowError("\n".join(["samples failed", *ledger.details()]))
    counts = ledger.counts()
    result = HeatmapsResult(
        dataset=samples._root_dataset.name,
        fields=written.get("fields", ledger.fields),
        num_read=counts["num_read"],
        num_annotated=counts["num_committed"],
        num_heatmaps=counts["num_heatmaps"],
        num_skipped=counts["num_skipped"],
        num_failed=counts["num_failed"],
        skipped=dict(ledger.finished.get("skipped", {})),
        failures=[
            Failure(found["sample"], found["media_path"], found["stage"], found["error"], found["known"])
            for found in ledger.failures
        ],
        elapsed_seconds=ledger.finished.get("elapsed_s", 0.0),
        _lines=[ledger.headline(), *ledger.details()],
    )
    if result.num_failed:
        logger.warning("%d of %d samples failed; `failures` of the result has the reasons", result.num_failed, result.num_read)
    return result


def _follow(program: str, arguments: list[str], files: dict[str, str], progress: Any) -> Ledger:
    """Runs camflow to its end. The first interruption lets it finish what is in flight, the second ends it at once."""
    ledger = Ledger(KEPT_FAILURES)
    with closing(Run(program, arguments, files, environment(), own_group=True)) as run, closing(_Bar(ledger, progress)) as bar:
        events = run.events(BEAT)
        interrupted = False
        while True:
            try:
                event = next(events, run)
                if event is run:
                    break
                if isinstance(event, dict):
                    tell(event)
                    ledger.take(event)
                bar.show()
            except KeyboardInterrupt:
                run.stop()
                if not interrupted:
                    logger.warning("interrupted: finishing what is in flight; interrupt again to stop at once")
                interrupted = True
                # The interruption has ended the generator, if it was there.
                events = run.events(BEAT)
        if interrupted or run.code == INTERRUPTED:
            raise KeyboardInterrupt
        ledger.check(run)
    return ledger


class _Bar:
    """FiftyOne's progress bar, from when the number of samples is known."""

    def __init__(self, ledger: Ledger, progress: Any) -> None:
        self.ledger, self.progress = ledger, progress
        self.bar: Any = None
        self.shown = 0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)

    def show(self) -> None:
        import fiftyone.core.utils as fou

        if self.bar is None and self.ledger.num_samples is not None:
            self.bar = fou.ProgressBar(total=self.ledger.num_samples, progress=self.progress)
            self.bar.__enter__()
        if self.bar is None:
            return
        # Those that are up to date are known at the end only.
        done = self.ledger.finished.get("num_read", self.ledger.num_done)
        if done > self.shown:
            self.bar.update(done - self.shown)
            self.shown = done
