"""camflow in the FiftyOne App: an operator that computes heatmaps, and a panel with plots of what they measure."""

from .compute import ComputeHeatmaps
from .panel import MeasuresPanel


def register(plugin) -> None:
    """What FiftyOne calls when it loads the plugin."""
    plugin.register(ComputeHeatmaps)
    plugin.register(MeasuresPanel)
