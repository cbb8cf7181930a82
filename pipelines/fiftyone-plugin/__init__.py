"""camflow in the FiftyOne App: operators that compute and show heatmaps, and a panel with plots of what they measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compute import ComputeHeatmaps
from .panel import MeasuresPanel
from .show import ShowHeatmaps

if TYPE_CHECKING:
    from fiftyone.plugins.context import PluginContext


def register(plugin: PluginContext) -> None:
    """What FiftyOne calls when it loads the plugin."""
    plugin.register(ComputeHeatmaps)
    plugin.register(ShowHeatmaps)
    plugin.register(MeasuresPanel)
