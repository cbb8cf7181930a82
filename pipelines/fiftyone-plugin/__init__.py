"""camflow in the FiftyOne App: operators that compute, show and compare heatmaps and make labels of them, and panels with plots and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compare import CompareHeatmaps
from .compute import ComputeHeatmaps
from .localize import LocalizeHeatmaps
from .panel import MeasuresPanel
from .show import ShowHeatmaps
from .side_by_side import SideBySidePanel

if TYPE_CHECKING:
    from fiftyone.plugins.context import PluginContext


def register(plugin: PluginContext) -> None:
    """What FiftyOne calls when it loads the plugin."""
    plugin.register(ComputeHeatmaps)
    plugin.register(ShowHeatmaps)
    plugin.register(CompareHeatmaps)
    plugin.register(LocalizeHeatmaps)
    plugin.register(MeasuresPanel)
    plugin.register(SideBySidePanel)
