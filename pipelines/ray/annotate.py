"""Runs the jobs of a camflow job file on a Ray cluster: many small shards, handed to a worker for each GPU (or node).

    python pipelines/ray/annotate.py --address auto pipelines/nightly.toml

Every node needs Ray, camflow, and the job file, images, model and output folder under the same paths; the database is found by
`database-uri` of the job file or FIFTYONE_DATABASE_URI. docs/scale.md tells more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import ray
from ray.exceptions import RayError
from shards import ABORTED, DONE, INTERRUPTED, LOCKED, SOME_FAILED, USAGE, Shards
from workers import Demand, Workers, usable_nodes

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

# Shards for each worker that fits on the cluster at the start. More make the end more even and cost less when a node is lost.
SHARDS_A_WORKER = 16
# Seconds until a cluster on which no worker has started is given up.
PATIENCE = 300
# What camflow reads of the environment, taken along to the nodes.
ENVIRONMENT = ("FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_NAME", "CAMFLOW_CACHE")


def main() -> int:
    args = parser().parse_args()
    jobs = job_names(args)
    teller = Teller(args.format)
    environment = {name: os.environ[name] for name in (*ENVIRONMENT, *args.env) if name in os.environ}
    ray.init(address=args.address, logging_level="warning")
    # Ray has set a handler of its own.
    stopping = Stopping()
    demand = Demand(default_gpus() if args.num_gpus is None else args.num_gpus, args.num_cpus)
    worst, summaries = DONE, []
    for job in jobs:
        run = JobRun(args, job, demand, environment, stopping, teller)
        code = run.run()
        summaries.append({"job": job, "exit_code": code, **run.summary()})
        teller.tell("job_finished", **summaries[-1])
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
    if args.report_file:
        args.report_file.write_text(json.dumps({"exit_code": worst, "jobs": summaries}, indent=2) + "\n")
    ray.shutdown()
    return worst


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    made.add_argument("file", type=Path, help="the job file, under the same path on all nodes")
    made.add_argument("--address", default="auto", help="the cluster's address; `local` makes one of this machine; default: auto")
    made.add_argument("--only", action="append", default=[], metavar="JOB", help="only this job of the file; may be repeated")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `camflow run`; may be repeated")
    made.add_argument("--shards", type=positive, metavar="N", help=f"default: {SHARDS_A_WORKER} for each worker that fits at the start")
    made.add_argument("--num-gpus", type=float, metavar="X", help="GPUs of a worker, fractions too; default: 1, or 0 on a cluster without")
    made.add_argument("--num-cpus", type=float, metavar="X", help="cores of a worker; default: its share of the node's")
    made.add_argument("--max-workers", type=positive, metavar="N", help="no more workers than this at a time")
    made.add_argument("--retries", type=int, default=3, metavar="N", help="how often a shard is tried again that failed; default: 3")
    made.add_argument("--program", default=os.environ.get("CAMFLOW_BIN", "camflow"), help="camflow on the nodes; default: CAMFLOW_BIN, or what is on the PATH")
    made.add_argument("--env", action="append", default=[], metavar="NAME", help="take this environment variable along, a password say; may be repeated")
    made.add_argument("--logs", metavar="FOLDER", help="one file for each worker with its JSON lines, on its node; default: warnings only, by Ray")
    made.add_argument("--report-file", type=Path, metavar="FILE", help="write the summary here (JSON)")
    made.add_argument("--format", choices=("human", "json"), default="human", help="words, or one JSON object a line")
    return made


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def job_names(args) -> list[str | None]:
    """The jobs of the file, in order; None for the only one, where it has no name. camflow itself judges the file."""
    args.file = args.file.resolve()
    try:
        jobs = tomllib.loads(args.file.read_text()).get("job", [])
    except (OSError, ValueError) as error:
        sys.exit(f"error: job file `{args.file}`: {error}")
    names = [job.get("name") for job in jobs]
    return args.only or (names if len(names) > 1 else [None])


def default_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0) >= 1)


class Stopping:
    """Whether somebody asked to stop: the first signal lets shards in flight come to a good end, the second does not."""

    def __init__(self):
        self.num_signals = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        self.num_signals += 1
        if self.num_signals > 1:
            os._exit(INTERRUPTED)


class JobRun:
    """One job on the cluster."""

    def __init__(self, args, job: str | None, demand: Demand, environment: dict, stopping: Stopping, teller: Teller):
        slots = sum(demand.slots(node["Resources"]) for node in usable_nodes())
        self.max_workers = args.max_workers or sys.maxsize
        self.shards = Shards(args.shards or SHARDS_A_WORKER * max(1, min(slots, self.max_workers)), args.retries)
        arguments = ["run", str(args.file), "--set", "workers={cpus}", *(part for pair in args.set for part in ("--set", pair))]
        arguments += ["--only", job] if job else []
        arguments += ["--format", "json"] if args.logs else ["--quiet"]
        self.workers = Workers(demand, (args.program, arguments, environment, args.logs))
        self.stopping, self.teller = stopping, teller
        self.refusals: set[int] = set()
        self.started = self.last_ready = time.monotonic()
        self.is_draining = False

    def run(self) -> int:
        """Hands out shards until all are answered for; the exit code."""
        self.teller.tell("job_started", num_shards=self.shards.count)
        while self.shards.pending or any(hand.shard for hand in self.workers.hands):
            if self.stopping.num_signals:
                if not self.drain():
                    self.workers.close()
                    return INTERRUPTED
            else:
                self.workers.fill(min(self.max_workers, self.num_open()))
                self.hand_out()
            if reason := self.hopeless():
                self.workers.close()
                # What all nodes lack may be there later, or never.
                code = ABORTED if self.refusals == {ABORTED} else USAGE
                self.shards.lost += [{"shard": shard.name, "exit_code": code, "error": reason} for shard in self.shards.pending]
                break
            self.hear()
        self.workers.close()
        return self.shards.exit_code

    def summary(self) -> dict:
        return {"elapsed_s": round(time.monotonic() - self.started, 3), **self.shards.summary()}

    def num_open(self) -> int:
        return len(self.shards.pending) + sum(hand.shard is not None for hand in self.workers.hands)

    def hand_out(self) -> None:
        """One shard for each worker that has none: a worker that is slow, or lost, keeps no others waiting."""
        nodes = {hand.node for hand in self.workers.hands if hand.is_ready}
        for hand in self.workers.hands:
            if not hand.is_ready or hand.shard:
                continue
            if shard := self.shards.next_for(hand.node, nodes):
                hand.shard, hand.call = shard, hand.actor.do.remote(shard.name)
                self.teller.tell("shard_started", shard=shard.name, host=hand.host, node=hand.node)

    def hear(self) -> None:
        """Takes what workers have answered meanwhile."""
        busy = {hand.call: hand for hand in self.workers.hands if hand.shard or not hand.is_ready}
        if not busy:
            time.sleep(0.5)
            return
        answered, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0.2)
        for call in answered:
            hand = busy[call]
            try:
                answer = ray.get(call)
            except RayError as error:
                # The actor or its node is gone.
                answer = {"event": "worker_lost", "exit_code": ABORTED, "error": str(error).strip().splitlines()[0]}
            if hand.shard is None:
                self.heard_start(hand, answer)
            else:
                self.heard_shard(hand, answer)

    def heard_start(self, hand, answer: dict) -> None:
        if answer["event"] == "ready":
            hand.is_ready = True
            self.teller.tell("worker_ready", host=hand.host, node=hand.node, devices=answer["devices"])
        elif answer["event"] == "worker_lost":
            self.teller.tell("worker_lost", host=hand.host, node=hand.node, error=answer["error"])
            self.workers.drop(hand)
        else:
            self.teller.tell("node_refused", host=hand.host, node=hand.node, error=answer["error"])
            self.refusals.add(answer["exit_code"])
            self.workers.refuse(hand, f"{hand.host}: {answer['error']}")

    def heard_shard(self, hand, answer: dict) -> None:
        shard, hand.shard = hand.shard, None
        code = answer["exit_code"]
        if answer["event"] == "shard_finished" and code in (DONE, SOME_FAILED):
            self.shards.finished(answer)
            self.teller.tell(
                "shard_finished", shard=shard.name, host=hand.host, node=hand.node, counts=answer["counts"],
                num_done=self.shards.num_done, num_shards=self.shards.count, elapsed_s=answer["elapsed_s"],
            )
            return
        error = answer.get("error") or f"the worker on {hand.host} ended with exit code {code}"
        self.shards.partly(answer.get("counts"))
        if self.stopping.num_signals:
            self.shards.unasked(shard)
            self.workers.drop(hand)
            return
        is_again = self.shards.failed(shard, hand.node, code if answer["event"] == "shard_finished" else ABORTED, error)
        self.teller.tell("shard_failed", shard=shard.name, host=hand.host, node=hand.node, error=error, exit_code=code, is_tried_again=is_again)
        if code != LOCKED:
            # Another one starts in its place: what is wrong may be its own.
            self.workers.drop(hand)

    def hopeless(self) -> str | None:
        """Why nobody can do what is left."""
        if any(hand.is_ready for hand in self.workers.hands):
            self.last_ready = time.monotonic()
            return None
        is_late = time.monotonic() - self.last_ready > PATIENCE
        if self.workers.hands:
            return f"no worker has started for {PATIENCE} s: the cluster's resources are in use" if is_late else None
        nodes = {node["NodeID"] for node in usable_nodes() if self.workers.demand.slots(node["Resources"])}
        if nodes and nodes <= self.workers.refused.keys():
            return "\n".join(["no node can do this job", *sorted({self.workers.refused[node] for node in nodes})])
        return f"no node has room for a worker since {PATIENCE} s" if is_late else None

    def drain(self) -> bool:
        """Asks workers to stop; whether some still have something in flight."""
        if not self.is_draining:
            self.is_draining = True
            self.teller.tell("draining")
            for hand in self.workers.hands:
                if hand.shard:
                    hand.actor.stop.remote()
        return any(hand.shard for hand in self.workers.hands)


class Teller:
    """Says what happens: in words on standard error, or in JSON lines on standard output."""

    WORDS: ClassVar = {
        "job_started": "{num_shards} shards",
        "worker_ready": "{host}: a worker on {devices} is ready",
        "worker_lost": "{host}: a worker is lost ({error})",
        "node_refused": "{host}: cannot be used\n{error}",
        "shard_finished": "shard {shard} of {num_shards} on {host}: {counts[num_committed]} annotated in {elapsed_s:.1f} s; {num_done} shards done",
        "shard_failed": "shard {shard} on {host}: {error}",
        "draining": "stopping: shards in flight are finished first (again to stop at once)",
    }

    def __init__(self, format: str):
        self.format = format

    def tell(self, event: str, **more) -> None:
        if self.format == "json":
            print(json.dumps({"event": event, **more}), flush=True)
        elif event == "job_finished":
            print(self._finished(more), flush=True)
        elif event in self.WORDS:
            print(self.WORDS[event].format(**more), file=sys.stderr, flush=True)

    @staticmethod
    def _finished(summary: dict) -> str:
        counts = summary["counts"]
        shards = f"{summary['num_shards_done']} of {summary['num_shards']} shards done, {summary['num_retried']} tried again"
        numbers = {name: counts.get(f"num_{name}", 0) for name in ("committed", "heatmaps", "skipped", "failed")}
        samples = "{committed} samples annotated ({heatmaps} heatmaps), {skipped} skipped, {failed} failed".format(**numbers)
        lines = [f"{shards}: {samples} in {summary['elapsed_s']:.0f} s"]
        lines += [f"failed: {failure['sample']} ({failure.get('media_path')}): {failure['error']}" for failure in summary["failures"]]
        lines += [f"error: shard {lost['shard']}: {lost['error']}" for lost in summary["lost"][:3]]
        return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
