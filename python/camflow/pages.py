"""What the heatmaps of a dataset say, as pages that a notebook shows: `camflow report` and `camflow compare`."""

from __future__ import annotations

import html
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
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
class Page:
    """A page (one HTML file that needs no other), and its numbers."""

    page: str = field(repr=False)
    # As `--json` writes them.
    numbers: dict[str, Any] = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the page to a file."""
        Path(path).write_text(self.page)

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="{HEIGHT}" frameborder="0"></iframe>'


@dataclass(frozen=True)
class Report(Page):
    """A report."""


@dataclass(frozen=True)
class Comparison(Page):
    """A comparison of A with B."""

    @property
    def crossed(self) -> list[str]:
        """A sentence for each threshold that was crossed, and with `strict` for each that too few samples say nothing of."""
        return [gate["text"] for gate in self.numbers["gates"] if gate["fails"]]


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
    return Report(*_made("report", samples, names(fields, "--fields"), settings))


def compare(
    samples: fo.core.collections.SampleCollection,
    a: str,
    b: str | None = None,
    against: fo.Dataset | str | None = None,
    **settings: Any,
) -> Comparison:
    """Two models, nights or methods on the same samples: differences of their measures with intervals, and what changed most.

    Args:
        samples: a dataset or a view with heatmaps of A
        a: a heatmap field; several, with `*` for what is the same in B; or a run
        b: B, likewise, in the same dataset or in `against`, where it is `a` by default
        against: the dataset of B, if it is another one, such as a clone; samples belong together by the paths of their images
        settings: any other flag of `camflow compare`, such as `max_drop="energy_inside=0.02"`

    Returns:
        the page and its numbers; `crossed` says which thresholds were crossed

    Raises:
        CamflowError: A and B have no heatmaps of the same samples, or they cannot be read
    """
    arguments = [] if against is None else [f"--against-dataset={against if isinstance(against, str) else against.name}"]
    # Behind `--` nothing is a flag.
    named = ["--", a, *([] if b is None else [b])]
    return Comparison(*_made("compare", samples, arguments, settings, named, refused=(1,)))


def _made(
    command: str,
    samples: fo.core.collections.SampleCollection,
    arguments: list[str],
    settings: Mapping[str, Any],
    named: Iterable[str] = (),
    refused: tuple[int, ...] = (),
) -> tuple[str, dict[str, Any]]:
    """The page and the numbers of a command, which may also end with one of the codes in `refused`."""
    import fiftyone as fo

    check_samples(samples)
    if isinstance(samples, fo.DatasetView) and samples.media_type == fo.core.media.GROUP:
        samples = samples.select_group_slices(media_type="image")
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        page, numbers = Path(folder) / "page.html", Path(folder) / "numbers.json"
        given = [f"--dataset={samples._root_dataset.name}", f"--out={page}", f"--json={numbers}", *arguments]
        for flag, content in selection(samples, of_labels=False).items():
            file = Path(folder) / flag.strip("-")
            file.write_text(content)
            given.append(f"{flag}={file}")
        done = subprocess.run(
            [find(), command, *given, *flags(settings), *named], env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, *refused) or not numbers.exists():
            raise CamflowError(done.stderr.strip().removeprefix("error: "))
        for line in done.stdout.splitlines():
            if line.startswith("note: "):
                logger.info("%s", line)
        return page.read_text(), json.loads(numbers.read_text())
