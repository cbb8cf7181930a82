"""The lines of `camflow ... --format json`, one object each, as docs/operations.md lists them.

Names stay as they are, and new ones may be added: a program looks at those that it knows.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict, cast

Level = Literal["info", "warn", "error"]


class _Origin(TypedDict, total=False):
    """Whose line it is; each is there only where there is one."""

    job: str
    dataset: str


class _Line(_Origin):
    """What every line has."""

    # RFC 3339 in UTC, with milliseconds.
    time: str
    level: Level
    host: str


class JobStarted(_Line):
    """A job begins, the `number`th of `num_jobs`; `camflow` is the version."""

    event: Literal["job_started"]
    number: int
    num_jobs: int
    camflow: str


class Told(_Line):
    """A step of the preparation, or something worth knowing."""

    event: Literal["step", "notice", "warning"]
    message: str


class Space(TypedDict):
    """Bytes that are free on the disk of a folder."""

    bytes: int
    folder: str


class RunStarted(_Line):
    """The first sample is about to be read.

    `num_samples` are those of the selection; they get at most `num_heatmaps` in `fields`, and their files take at most `num_bytes`. What
    is unknown is None, and `free` where no files are written.
    """

    event: Literal["run_started"]
    fields: list[str]
    num_samples: int | None
    num_heatmaps: int | None
    num_bytes: int | None
    free: Space | None


class Forecast(_Line):
    """What is left of a run that goes on for a while; `num_bytes` are those of the files, `free` is None where none are written."""

    event: Literal["forecast"]
    num_samples: int
    num_heatmaps: int
    num_bytes: int
    seconds: float
    free: Space | None


class SampleCommitted(_Line):
    """A sample's heatmaps are stored; `sample` is its id. Some may have been taken away, of what is not there any more."""

    event: Literal["sample_committed"]
    sample: str
    num_heatmaps: int
    num_withdrawn: int


class SampleSkipped(_Line):
    """A sample got no heatmap for a reason that is no failure. Those that are up to date have no line."""

    event: Literal["sample_skipped"]
    sample: str
    reason: str


class SampleFailed(_Line):
    """A sample failed in a stage; `known`: so it did in an earlier run, with the same inputs."""

    event: Literal["sample_failed"]
    sample: str
    media_path: str
    stage: str
    error: str
    known: bool


class SampleStale(_Line):
    """With `--explain-plan`: why a sample would be annotated."""

    event: Literal["sample_stale"]
    sample: str
    media_path: str
    reasons: list[str]


class SampleMoved(_Line):
    """Somebody wrote the image or a mask while it was read; the next run looks at it again."""

    event: Literal["sample_moved"]
    sample: str
    media_path: str


class Draining(_Line):
    """The run was asked to stop, and finishes what is in flight."""

    event: Literal["draining"]


class Stage(TypedDict):
    """How a stage of the pipeline spent its time, in seconds, summed over its threads."""

    busy_s: float
    starved_s: float
    blocked_s: float
    num_threads: int


class Counts(TypedDict):
    """What became of the samples that were read: committed, skipped (by reason), failed, or abandoned by an aborted run."""

    num_read: int
    num_committed: int
    num_skipped: int
    num_failed: int
    num_known_failed: int
    num_abandoned: int
    num_moved: int
    num_clipped: int
    num_unmatched: int
    num_empty: int
    num_heatmaps: int
    num_predicted: int
    num_bytes: int
    num_withdrawn: int
    skipped: dict[str, int]


class RunFinished(_Line, Counts):
    """A run has ended; `error` is why it was aborted, None where it was not."""

    event: Literal["run_finished"]
    interrupted: bool
    elapsed_s: float
    stages: dict[str, Stage]
    error: str | None


class DryRunFinished(_Line):
    """What a run would do; `stale` is the number of samples by reasons."""

    event: Literal["dry_run_finished"]
    num_read: int
    num_stale: int
    stale: dict[str, int]
    num_heatmaps: int
    num_predicted: int
    num_withdrawn: int
    num_skipped: int
    skipped: dict[str, int]
    num_failed: int
    interrupted: bool
    elapsed_s: float


# Python keeps the name for itself.
_Class = TypedDict("_Class", {"class": str})


class _Others(TypedDict, total=False):
    """What else was found wrong in the same look, if anything: `message`, `class`, `hints` and `causes` of each."""

    others: list[dict[str, Any]]


class Failed(_Line, _Class, _Others):
    """The job is given up. `message` is all that is said, with hints and causes on lines of their own.

    `class` is what the error means (such as `invalid`, `locked` or `unavailable`); `exit_code` is what the program will end with.
    """

    event: Literal["error"]
    message: str
    hints: list[str]
    causes: list[str]
    exit_code: int


class JobFinished(_Line):
    """The last line of every job, also of one that could not start; `exit` is the exit code as a word."""

    event: Literal["job_finished"]
    exit: str
    exit_code: int


# Told apart by their `event`.
Event = (
    JobStarted
    | Told
    | RunStarted
    | Forecast
    | SampleCommitted
    | SampleSkipped
    | SampleFailed
    | SampleStale
    | SampleMoved
    | Draining
    | RunFinished
    | DryRunFinished
    | Failed
    | JobFinished
)


def parse(line: str) -> Event | None:
    """The event of a line, which may be one of a later camflow; None for what is no event of camflow's at all."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    return cast(Event, found) if isinstance(found, dict) and isinstance(found.get("event"), str) else None
