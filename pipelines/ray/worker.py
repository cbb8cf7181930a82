"""One `camflow worker` on a node, as a Ray actor: the model stays loaded while shards come and go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any


class Worker:
    """Owns the process. `do` and `stop` may be called at the same time, so the actor needs two threads."""

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str], logs: str | None) -> None:
        """Starts nothing yet, so that what goes wrong can be told: an actor whose constructor fails is lost without words.

        `environment` comes on top of the node's own; it may hold passwords, which is why it is no `runtime_env`: Ray shows those.
        With `logs`, a folder, what the process says goes to a file there instead of Ray's logs.
        """
        self.program, self.arguments, self.environment, self.logs = program, arguments, environment, logs
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, Any]:
        """Starts the process; its first line, `ready` or `not_ready`."""
        found = shutil.which(self.program)
        if found is None:
            return self._not_ready(
                f"there is no program `{self.program}` on this node\n"
                "hint: install camflow on every node, or name its path with `--program`"
            )
        try:
            errors = None
            if self.logs:
                Path(self.logs).mkdir(parents=True, exist_ok=True)
                errors = (Path(self.logs) / f"{socket.gethostname()}-{os.getpid()}.log").open("w")
            self.process = subprocess.Popen(
                [found, "worker", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self.environment},
            )
        except OSError as error:
            return self._not_ready(f"camflow does not start: {error}")
        return self._hear(self.process) or self._not_ready(
            f"camflow ended with exit code {self.process.wait()} before it was ready"
        )

    def do(self, shard: str) -> dict[str, Any]:
        """The answer for a shard, `shard_finished`; `worker_ended` where there is none."""
        process = self.process
        assert process and process.stdin, "it was started"
        try:
            process.stdin.write(json.dumps({"shard": shard}) + "\n")
            process.stdin.flush()
            answer = self._hear(process)
        except OSError:
            answer = None
        return answer or {"event": "worker_ended", "exit_code": process.wait()}

    def stop(self) -> None:
        """Asks it to finish what is in flight, to answer and to end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Lets it end; there are no more shards."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait()

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> dict[str, Any] | None:
        assert process.stdout, "it was started with a pipe"
        line = process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def _not_ready(self, error: str) -> dict[str, Any]:
        return {"event": "not_ready", "host": socket.gethostname(), "exit_code": 2, "error": error}
