"""A MongoDB of a script's or a test's own: FiftyOne's binary, a folder and a port that nobody else uses."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path


class PrivateMongod:
    """A running server, until the block is left. It can be stopped, killed, frozen and started again meanwhile, at the same address.

    Nothing large is imported for it: a child's peak memory begins with that of its parent.
    """

    def __init__(self, folder: Path, cache_gb: float = 0.5, environment: dict[str, str] | None = None):
        self.folder = Path(folder)
        self.cache_gb = cache_gb
        # `None`: that of this process.
        self.environment = environment
        self.process: subprocess.Popen | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"mongodb://127.0.0.1:{self.port}"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server takes connections."""
        bundled = Path(sysconfig.get_path("purelib")) / "fiftyone/db/bin/mongod"
        executable = str(bundled) if bundled.exists() else shutil.which("mongod")
        if executable is None:
            raise SystemExit("error: no mongod in FiftyOne's package or on the PATH\nhint: bash scripts/setup.sh")
        command = [executable, "--dbpath", self.folder, "--port", self.port, "--bind_ip", "127.0.0.1", "--nounixsocket"]
        # The default is half of the machine's memory.
        command += ["--wiredTigerCacheSizeGB", self.cache_gb]
        log = self.folder / "mongod.out"
        with log.open("a") as out:
            self.process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, env=self.environment)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"error: mongod stopped\n{log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        self.stop()
        raise SystemExit(f"error: mongod does not answer on port {self.port}\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """A clean shutdown."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.thaw()
            self.process.wait(60)

    def kill(self) -> None:
        """A crash."""
        self.process.kill()
        self.process.wait(60)

    def freeze(self) -> None:
        """Connections stay, answers do not come."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
