"""Turns a PyTorch model into an archive that camflow runs: one `.pt2` file of the graph, the weights and `camflow.json`.

    loaded = load_model("torchvision:resnet50")
    content = export(loaded, "resnet50.pt2")

`python -m camflow.export` is the command line, `camflow export` of the program runs the same.
"""

from .archive import export
from .loaders import LoadedModel
from .loading import load_model
from .messages import ExportError

__all__ = ["ExportError", "LoadedModel", "export", "load_model"]
