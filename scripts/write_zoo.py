#!/usr/bin/env python3
"""Writes docs/reference/zoo.md: every torch model of FiftyOne's zoo, and whether `camflow export` takes it.

    .venv/bin/python scripts/write_zoo.py           writes the page
    .venv/bin/python scripts/write_zoo.py --check   ends with 1 if the page is not what it would write

What is said comes from where the exporter decides: its table of kinds, and the manifest of the installed FiftyOne.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))

from camflow.export.loaders import zoo, zoo_kinds

PAGE = ROOT / "docs" / "reference" / "zoo.md"
GIVES = {
    "FiftyOneYOLOModel": "needs `ultralytics` (AGPL) in your Python",
    "RFDETRDetectionModel": "classes of boxes; needs `rfdetr` in your Python",
    "RFDETRSegmentationModel": "classes of boxes; needs `rfdetr` in your Python",
    "FiftyOneTransformerForObjectDetection": "classes of boxes",
    "FiftyOneZeroShotTransformerForObjectDetection": "the texts of `--classes`, in boxes",
    "TorchCLIPModel": "classes of the zoo's list, or `--classes`",
    "TorchOpenClipModel": "classes of the zoo's list, or `--classes`; needs `open_clip_torch`",
    "FiftyOneTransformerForImageClassification": "classes of the image",
    "FiftyOneTransformerForSemanticSegmentation": "classes of each pixel",
    "FiftyOneTransformerForUniversalSegmentation": "classes of each pixel: class queries times masks",
    "FiftyOneZeroShotTransformerForImageClassification": "the texts of `--classes`",
}


def row(name: str, entry: dict) -> str:
    refused, kind = zoo_kinds.refusal(entry), zoo_kinds.kind_of(entry)
    config = entry["default_deployment_config_dict"]["config"]
    if refused:
        return f"| `{name}` | refused | gives {refused[0]} |"
    if kind == "FiftyOneTransformer" or config.get("output_processor_cls") is None and kind not in GIVES:
        return f"| `{name}` | ok | an embedding of the image (`--target similar=FILE`) |"
    processor = str(config.get("output_processor_cls"))
    gives = GIVES.get(kind)
    if kind in zoo_kinds.ULTRALYTICS:
        what = "classes of the image" if "Classification" in processor else "classes of boxes"
        what = "the texts of `--classes`, in boxes" if "yoloe" in name else what
        what = "the classes of its own list, in boxes" if name.endswith("-pf-torch") else what
        gives = f"{what}; {GIVES['FiftyOneYOLOModel']}"
    if str(config.get("entrypoint_fcn")).startswith("torchvision.models.detection."):
        gives = "classes of boxes"
    return f"| `{name}` | ok | {gives or ('classes of each pixel' if 'SemanticSegmenter' in processor else 'classes of the image')} |"


def page() -> str:
    entries = zoo.manifest()
    taken = [name for name, entry in entries.items() if not zoo_kinds.refusal(entry)]
    rows = "\n".join(row(name, entry) for name, entry in sorted(entries.items(), key=lambda pair: pair[0].lower()))
    return (
        "# FiftyOne's zoo\n\n"
        f"FiftyOne {importlib.metadata.version('fiftyone')} has {len(entries)} torch models in its zoo. "
        f"`camflow export NAME` takes the {len(taken)} that score classes, of an image, its pixels or boxes, or give an embedding of it; "
        "of the others it says what they give and what can be done. Written by `scripts/write_zoo.py`.\n\n"
        "`ok` means that the model's kind is read. The weights are downloaded by FiftyOne or Hugging Face.\n\n"
        f"| model | | what it gives |\n|---|---|---|\n{rows}\n"
    )


def main() -> int:
    text = page()
    if sys.argv[1:] == ["--check"]:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
