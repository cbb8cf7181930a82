"""The report about a dataset's heatmaps: `camflow report`, as a page that a notebook shows."""

from __future__ import annotations

import html
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .collection import check_samples, environment, selection
from .messages import logger
from .process import CamflowError, find
from .settings import flags, names

if TYPE_CHECKING:
    import fiftyone as fo

# Pixels that the page gets in a notebook.
HEIGHT = 800


@dataclass(frozen=True)
class Report:
    """A report: the page (one HTML file that needs no other), and its numbers."""

    page: str = field(repr=False)
    # As `camflow report --json` writes them.
    numbers: dict[str, Any] = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page to a file."""
        Path(path).write_text(self.page)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="{HEIGHT}" frameborder="0"></iframe>'


def report(samples: fo.core.collections.SampleCollection, fields: str | Iterable[str] | None = None, **settings: Any) -> Report:
    """What the measures of heatmaps say: distributions, extreme samples, what stands out.

    Args:
        samples: a dataset or a view with heatmaps
        fields: their fields; by default all that camflow made
        settings: any other flag of `camflow report`, such as `baseline="last_week.json"`

    Returns:
        the page and its numbers

    Raises:
        CamflowError: there are no heatmaps, or they cannot be read
    """
    import fiftyone as fo

    check_samples(samples)
    if isinstance(samples, fo.DatasetView) and samples.media_type == fo.core.media.GROUP:
        samples = samples.select_group_slices(media_type="image")
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        page, numbers = Path(folder) / "report.html", Path(folder) / "numbers.json"
        arguments = ["report", f"--dataset={samples._root_dataset.name}", f"--out={page}", f"--json={numbers}"]
        arguments += names(fields, "--fields")
        for flag, content in selection(samples, of_labels=False).items():
            file = Path(folder) / flag.strip("-")
            file.write_text(content)
            arguments.append(f"{flag}={file}")
        done = subprocess.run(
            [find(), *arguments, *flags(settings)], env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CamflowError(done.stderr.strip().removeprefix("error: "))
        for line in done.stdout.splitlines():
            if line.startswith("note: "):
                logger.info("%s", line)
        return Report(page.read_text(), json.loads(numbers.read_text()))
