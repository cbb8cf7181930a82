"""camflow in Python: class-activation heatmaps for FiftyOne datasets.

    import camflow

    camflow.compute_heatmaps(dataset, model, classes="person", label_field="ground_truth")
    camflow.explain("bus.jpg", model)                   heatmaps of one image, as arrays
    camflow.report(dataset)                             where the model looks, as a page
    camflow.compare(dataset, "v1_*", "v2_*")            one model against another, as a page
    camflow.localize(dataset, boxes="found", truth="gt") boxes and masks of the heatmaps, and how well they fit
    camflow.check_model(model, images)                  whether a model's heatmaps can be trusted
    camflow.load(sample["person_grad_layer_4"])         a heatmap as an array

Its modules, of which importing one imports none of torch, torchvision, timm and FiftyOne (those are imported when they are needed):

    from camflow.archive import Model, NoModelError     what an archive says of itself
    from camflow.events import Event                    the lines of `--format json`
    from camflow.export import export, load_model       from an `nn.Module` to an archive (needs torch)
    from camflow.process import Run, find               a `camflow` that runs beside this process
"""

from .checks import ModelCheck, check_model
from .explanations import Explanation, HeatmapOf, explain
from .heatmaps import Failure, HeatmapsResult, compute_heatmaps
from .labels import load
from .localization import Localization, localize
from .pages import Comparison, Report, compare, report
from .process import CamflowError

__all__ = [
    "CamflowError",
    "Comparison",
    "Explanation",
    "Failure",
    "HeatmapOf",
    "HeatmapsResult",
    "Localization",
    "ModelCheck",
    "Report",
    "check_model",
    "compare",
    "compute_heatmaps",
    "explain",
    "load",
    "localize",
    "report",
]
