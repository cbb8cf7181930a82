"""What a run of `camflow annotate` says, added up while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .events import Event, SampleFailed
from .process import Run

NUMBERS = ("num_read", "num_committed", "num_heatmaps", "num_withdrawn", "num_skipped", "num_failed")


class Ledger:
    """What a run has said so far."""

    def __init__(self, kept_failures: int) -> None:
        """Of so many failed samples it keeps what was said; it counts all."""
        self.kept_failures = kept_failures
        self.step = "starting"
        self.num_samples: int | None = None
        # Those that the run writes.
        self.fields: list[str] = []
        self.num_done = self.num_failed = 0
        self.finished: Mapping[str, Any] = {}
        self.error: str | None = None
        # When it is over, as far as the run could say.
        self._ends: float | None = None
        self.failures: list[SampleFailed] = []

    def take(self, event: Event) -> None:
        """Notes one of camflow's lines; docs/operations.md lists them."""
        match event["event"]:
            case "step":
                self.step = event["message"]
            case "run_started":
                self.num_samples, self.step = event["num_samples"], ""
                self.fields = event["fields"]
            case "forecast":
                self._ends = time.monotonic() + event["seconds"]
            case "sample_committed" | "sample_skipped":
                self.num_done += 1
            case "sample_failed":
                self.num_done += 1
                self.num_failed += 1
                if len(self.failures) < self.kept_failures:
                    self.failures.append(event)
            case "draining":
                self.step = "stopping"
            case "run_finished" | "dry_run_finished":
                self.finished = event
            case "error":
                self.error = event["message"]

    def progress(self) -> tuple[str, float]:
        """A label and a fraction. Samples that are up to date are not counted one by one, so that the bar may jump."""
        if self.finished:
            return "done", 1.0
        if self.step or not self.num_samples:
            return self.step or f"{self.num_done} samples", 0.0
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        left = f", about {_time(self._ends - time.monotonic())} left" if self._ends else ""
        return f"{self.num_done} of {self.num_samples} samples{failed}{left}", min(self.num_done / self.num_samples, 1.0)

    def check(self, run: Run) -> None:
        """Looks at how a run has ended; 1 is one that came to its end, with failed samples.

        Raises:
            CamflowError: it gave up, or was ended.
        """
        run.check(self.error or self.finished.get("error"))

    def counts(self) -> dict[str, int]:
        """How many samples and heatmaps came to what, by NUMBERS."""
        counts = {name: self.finished.get(name, 0) for name in NUMBERS}
        # What a dry run counts is not there.
        return {**counts, "num_heatmaps": 0, "num_withdrawn": 0} if self._is_dry() else counts

    def _is_dry(self) -> bool:
        return self.finished.get("event") == "dry_run_finished"

    def headline(self) -> str:
        """The counts in a sentence."""
        counts = self.counts()
        read, heatmaps = _counted(counts["num_read"], "sample"), _counted(counts["num_heatmaps"], "heatmap")
        skipped, failed = counts["num_skipped"], counts["num_failed"]
        if self._is_dry():
            heatmaps = _counted(self.finished["num_heatmaps"], "heatmap")
            would = f"{self.finished['num_stale']} would be annotated ({heatmaps}), {skipped} skipped, {failed} would fail"
            return f"dry run, nothing was changed; {read} read: {would}"
        return f"{read} read: {counts['num_committed']} annotated ({heatmaps}), {skipped} skipped, {failed} failed"

    def details(self) -> list[str]:
        """A line for each reason to skip, and for each failure that was kept."""
        lines = [f"{number} skipped: {reason}" for reason, number in self.finished.get("skipped", {}).items()]
        lines += [f"failed: `{event['sample']}` ({event['media_path']}): {event['error']}" for event in self.failures]
        if self.counts()["num_failed"] > len(self.failures):
            lines.append(f"and {self.counts()['num_failed'] - len(self.failures)} more failed")
        return lines


def _time(seconds: float) -> str:
    """In the unit that fits."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * size:
            return _counted(round(seconds / size), unit)
    return _counted(max(1, round(seconds)), "second")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
