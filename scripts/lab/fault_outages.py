"""The database is away: stopped, killed, frozen, or cut off by a proxy, for a while or for good."""

from __future__ import annotations

import time

from fault_scenarios import ABORTED, DONE, Suite
from tcp_proxy import TcpProxy

# How long a database that comes back is away.
AWAY_S = 3
# A driver that gives up sooner than by default, so that the abort can be waited for.
IMPATIENT = "/?serverSelectionTimeoutMS=1000&connectTimeoutMS=1000&heartbeatFrequencyMS=500"
SAYING = "run the same command again to go on; what was committed stays"


def restarts(suite: Suite) -> None:
    """A server that ends in the middle of a run. Runs alone: it is everybody's server."""
    mongod = suite.world.mongod
    ends = [("stopped", mongod.stop, False), ("killed", mongod.kill, True)]
    if suite.long:
        ends += [("stopped", mongod.stop, True), ("killed", mongod.kill, False)]
    for name, end, replacing in ends:
        with suite.fault(f"mongod {name} and started again, {'replacing' if replacing else 'first'} run") as one:
            dataset = suite.dataset(replacing)
            run = suite.midway(one, dataset)
            end()
            time.sleep(suite.random.uniform(0, AWAY_S))
            mongod.start()
            one.ends(run, DONE)
            one.check(dataset, complete=True)
            one.recover(dataset)
            dataset.delete()
    for _ in range(5 if suite.long else 1):
        with suite.fault("mongod killed right after an update, replacing run") as one:
            dataset = suite.dataset(replacing=True)
            run = dataset.run()
            # The server has answered, and the files that were replaced are gone; what it answered for has to last.
            going = run.until_committed()
            mongod.kill()
            mongod.start()
            one.expect(going, f"the run ended before the fault: {run.code}")
            one.ends(run, DONE)
            one.check(dataset, complete=True)
            one.recover(dataset)
            dataset.delete()
    if not suite.long:
        return
    with suite.fault("mongod frozen for a while") as one:
        dataset = suite.dataset()
        run = suite.midway(one, dataset)
        mongod.freeze()
        time.sleep(AWAY_S)
        mongod.thaw()
        one.ends(run, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()
    with suite.fault("mongod killed for good") as one:
        dataset = suite.dataset(replacing=True)
        run = suite.midway(one, dataset, uri=mongod.uri + IMPATIENT)
        mongod.kill()
        try:
            one.ends(run, ABORTED, saying=SAYING)
        finally:
            mongod.start()
        one.check(dataset)
        one.recover(dataset)
        dataset.delete()


def cuts(suite: Suite) -> None:
    """A proxy between camflow and the server that refuses, resets or swallows connections."""
    for mode in ("refuse", "reset", "blackhole"):
        with suite.fault(f"connections: {mode} for a while") as one, TcpProxy(suite.world.mongod.port) as proxy:
            dataset = suite.dataset()
            run = suite.midway(one, dataset, uri=f"mongodb://127.0.0.1:{proxy.port}")
            proxy.set_mode(mode)
            time.sleep(suite.random.uniform(0.5, AWAY_S))
            proxy.set_mode("pass")
            one.ends(run, DONE)
            one.check(dataset, complete=True)
            one.recover(dataset)
            dataset.delete()
        # The driver's own patience is minutes altogether.
        patiences = ("", IMPATIENT) if suite.long else (IMPATIENT,) if mode == "blackhole" else ()
        for patience in patiences:
            name = f"connections: {mode} for good{'' if patience else ', default timeouts'}"
            with suite.fault(name) as one, TcpProxy(suite.world.mongod.port) as proxy:
                dataset = suite.dataset(replacing=True)
                run = suite.midway(one, dataset, uri=f"mongodb://127.0.0.1:{proxy.port}{patience}")
                proxy.set_mode(mode)
                one.ends(run, ABORTED, saying=SAYING)
                one.check(dataset)
                one.recover(dataset)
                dataset.delete()
    if not suite.long:
        return
    with suite.fault("connections reset again and again") as one, TcpProxy(suite.world.mongod.port) as proxy:
        dataset = suite.dataset()
        run = suite.midway(one, dataset, uri=f"mongodb://127.0.0.1:{proxy.port}")
        for _ in range(10):
            proxy.set_mode("reset")
            proxy.set_mode("pass")
            time.sleep(suite.random.uniform(0.05, 0.5))
        one.ends(run, DONE)
        one.check(dataset, complete=True)
        one.recover(dataset)
        dataset.delete()
