"""The workers of a cluster: as many on each node as its GPUs or cores allow, also on nodes that come later."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import ray
import worker as worker_module
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from shards import Shard

# The nodes need Ray and camflow, and no file of ours.
ray.cloudpickle.register_pickle_by_value(worker_module)
# Seconds between two looks at which nodes there are.
LOOK_EVERY = 2.0


@dataclass(frozen=True)
class Demand:
    """What a worker takes of a node."""

    # May be a fraction, then so many share a GPU; 0 where the network runs on the CPU.
    num_gpus: float
    # None: its share of the node's cores.
    num_cpus: float | None

    def slots(self, resources: dict[str, float]) -> int:
        """How many workers fit on a node with these resources."""
        cpus = resources.get("CPU", 0)
        # 0.1 goes into 0.3 three times.
        fitting = [int(resources.get("GPU", 0) / self.num_gpus + 1e-6)] if self.num_gpus else []
        if self.num_cpus:
            fitting.append(int(cpus / self.num_cpus + 1e-6))
        elif not fitting:
            # One, which uses all cores.
            fitting.append(int(cpus >= 1))
        return min(fitting)

    def cpus(self, resources: dict[str, float]) -> float:
        """The cores of each worker on such a node."""
        return self.num_cpus or max(1, resources.get("CPU", 0) // max(1, self.slots(resources)))


@dataclass(eq=False)
class Hand:
    """A worker that was started."""

    # A handle of `Worker`, whose methods are remote.
    actor: Any
    node: str
    host: str
    # What it is doing: starting where there is no shard.
    call: ray.ObjectRef
    shard: Shard | None = None
    is_ready: bool = False


class Workers:
    """Keeps a worker in each slot of each node that can be used."""

    def __init__(self, demand: Demand, command: tuple[str, list[str], dict[str, str], str | None]) -> None:
        """`command` is what `Worker` takes; of the arguments, `{cpus}` becomes the worker's cores."""
        self.demand, self.command = demand, command
        self.hands: list[Hand] = []
        # By node: why it cannot be used.
        self.refused: dict[str, str] = {}
        self._looked = float("-inf")

    def fill(self, at_most: int) -> None:
        """Starts workers in slots that have none, until there are so many."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for node in usable_nodes():
            if node["NodeID"] in self.refused:
                continue
            present = sum(hand.node == node["NodeID"] for hand in self.hands)
            wanted = min(self.demand.slots(node["Resources"]), present + at_most - len(self.hands))
            self.hands += [self._start(node) for _ in range(present, wanted)]

    def _start(self, node: dict[str, Any]) -> Hand:
        program, arguments, *rest = self.command
        cpus = self.demand.cpus(node["Resources"])
        options = {
            "num_cpus": cpus,
            "num_gpus": self.demand.num_gpus,
            "max_concurrency": 2,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        }
        arguments = [part.replace("{cpus}", str(max(1, int(cpus)))) for part in arguments]
        actor = ray.remote(worker_module.Worker).options(**options).remote(program, arguments, *rest)
        return Hand(actor, node["NodeID"], node["NodeManagerHostname"], actor.start.remote())

    def refuse(self, hand: Hand, reason: str) -> None:
        """The node cannot be used for this job."""
        self.refused[hand.node] = reason
        self.drop(hand)

    def drop(self, hand: Hand) -> None:
        """Ends a worker for good; its slot is free then."""
        self.hands.remove(hand)
        with contextlib.suppress(RayError):
            ray.kill(hand.actor)

    def close(self) -> None:
        """Lets all workers end."""
        for hand in list(self.hands):
            if hand.is_ready and hand.shard is None:
                with contextlib.suppress(RayError):
                    ray.get(hand.actor.close.remote())
            self.drop(hand)


def usable_nodes() -> list[dict[str, Any]]:
    """The nodes that are there."""
    return [node for node in ray.nodes() if node["Alive"]]
