"""The shards of a job: what is to be done, what was done, and what is tried again where."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

# Exit codes of camflow, as its README has them.
DONE, SOME_FAILED, USAGE, ABORTED, LOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 130
# Seconds until a shard is tried again that another run holds, and in all.
LOCK_PAUSE, LOCK_PATIENCE = 10.0, 600.0
# Failed samples that the summary names.
NAMED_FAILURES = 20


@dataclass(eq=False)
class Shard:
    """One part of a job."""

    name: str
    # Nodes that it failed on.
    failed_on: set[str] = field(default_factory=set)
    num_tries: int = 0
    # Not before this time (of `time.monotonic`), and since when it waits for a lock.
    earliest: float = 0.0
    waits_since: float | None = None


class Shards:
    """The shards of one job, and the sum of their answers."""

    def __init__(self, count: int, num_retries: int) -> None:
        self.num_retries = num_retries
        self.count = count
        self.pending = deque(Shard(f"{index}/{count}") for index in range(1, count + 1))
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        # What was given up: shard, exit code, error.
        self.lost: list[dict[str, Any]] = []
        self.num_done = self.num_retried = 0

    def next_for(self, node: str, nodes: set[str]) -> Shard | None:
        """A shard for a worker on this node: not one that failed there, unless it failed on all of `nodes`."""
        now = time.monotonic()
        for shard in self.pending:
            if shard.earliest <= now and (node not in shard.failed_on or nodes <= shard.failed_on):
                self.pending.remove(shard)
                return shard
        return None

    def finished(self, answer: dict[str, Any]) -> None:
        """A shard came to its end; samples of it may have failed, which another try would not change."""
        self.num_done += 1
        counts = dict(answer["counts"] or {})
        self.skipped.update(counts.pop("skipped", {}))
        self.counts.update({name: number for name, number in counts.items() if isinstance(number, int)})
        self.failures += answer["failures"][: NAMED_FAILURES - len(self.failures)]

    def partly(self, counts: dict[str, Any] | None) -> None:
        """What a try stored that did not come to its end; the next one finds it up to date."""
        self.counts.update({name: (counts or {}).get(name, 0) for name in ("num_committed", "num_heatmaps")})

    def failed(self, shard: Shard, node: str, code: int, error: str) -> bool:
        """Whether a shard that did not come to its end is tried again."""
        now = time.monotonic()
        if code == LOCKED:
            shard.waits_since = shard.waits_since or now
            shard.earliest = now + LOCK_PAUSE
            is_again = now - shard.waits_since < LOCK_PATIENCE
        else:
            shard.num_tries += 1
            shard.failed_on.add(node)
            is_again = code != USAGE and shard.num_tries <= self.num_retries
        if is_again:
            self.num_retried += 1
            self.pending.append(shard)
        else:
            self.lost.append({"shard": shard.name, "exit_code": code, "error": error})
        return is_again

    def unasked(self, shard: Shard) -> None:
        """A shard that was not finished because nobody wants it any more."""
        self.pending.appendleft(shard)

    @property
    def exit_code(self) -> int:
        """As camflow's, of a run that was not interrupted."""
        if self.lost:
            codes = {lost["exit_code"] for lost in self.lost}
            return codes.pop() if len(codes) == 1 and codes <= {USAGE, LOCKED} else ABORTED
        return SOME_FAILED if self.counts["num_failed"] else DONE

    def summary(self) -> dict[str, Any]:
        """All answers together."""
        return {
            "num_shards": self.count,
            "num_shards_done": self.num_done,
            "num_retried": self.num_retried,
            "counts": {**self.counts, "skipped": dict(self.skipped)},
            "failures": self.failures,
            "lost": self.lost,
        }
