"""Running the `camflow` program: finding it, following its JSON lines, ending it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo

# Seconds that a run has to finish what is in flight before it is told again, and then before it is killed.
PATIENCE = 60
# The last lines of standard error that a message shows.
ERROR_LINES = 20


class CamflowError(Exception):
    """camflow is not there, or has given up; the text is its own."""


def find() -> str:
    """The program: `CAMFLOW_BIN`, else what the PATH or the folder of this Python holds.

    Raises:
        CamflowError: there is none.
    """
    named = os.environ.get("CAMFLOW_BIN")
    if named:
        if found := shutil.which(os.path.expanduser(named)):
            return found
        raise CamflowError(f"CAMFLOW_BIN is `{named}`, and no program is there")
    # An environment's programs are on the PATH only where it was activated.
    found = shutil.which("camflow") or shutil.which("camflow", path=str(Path(sys.executable).parent))
    if found:
        return found
    raise CamflowError(
        "no program `camflow` on the PATH of the FiftyOne App\n"
        "hint: install it into the App's environment with `pip install .` in camflow's folder,"
        " or set CAMFLOW_BIN to its path before the App is started"
    )


def environment() -> dict[str, str]:
    """This process's environment, with the database that FiftyOne uses here. Never as arguments: a URI may hold a password."""
    made = dict(os.environ)
    # Settings of a program win over the environment, and `fo.config` knows both. Without a URI, camflow finds the
    # database by FIFTYONE_PRIVATE_DATABASE_PORT, which FiftyOne sets.
    if fo.config.database_uri:
        made["FIFTYONE_DATABASE_URI"] = fo.config.database_uri
    if fo.config.database_dir:
        made["FIFTYONE_DATABASE_DIR"] = fo.config.database_dir
    made["FIFTYONE_DATABASE_NAME"] = fo.config.database_name
    # Should camflow have to export a model, this Python has what it takes.
    made.setdefault("CAMFLOW_PYTHON", sys.executable)
    return made


class Run:
    """A `camflow` that reports in JSON lines, until it ends or is closed."""

    def __init__(self, program: str, arguments: list[str], files: dict[str, str] | None = None):
        """Starts `PROGRAM ARGUMENTS`; each of `files` is the content of a file for the flag that is its name."""
        # The run may outlast its closing, so that its files go with the thread that reaps it.
        self._folder = tempfile.TemporaryDirectory(prefix="camflow-")
        try:
            for flag, content in (files or {}).items():
                path = Path(self._folder.name) / flag.strip("-")
                path.write_text(content)
                arguments = [*arguments, f"{flag}={path}"]
            self._errors = (Path(self._folder.name) / "stderr").open("w+")
            self._process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                errors="replace",
                env=environment(),
            )
        except OSError as error:
            self._folder.cleanup()
            raise CamflowError(f"`{program}` does not start: {error}") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ended = threading.Event()
        self._said = ""
        threading.Thread(target=self._follow, name="camflow", daemon=True).start()

    def close(self) -> None:
        """Asks it to stop, if it has not ended. Whoever closes it may be the server's only thread, so this does not wait."""
        if self._ended.is_set():
            return
        # SIGTERM: camflow finishes what is in flight.
        self._process.terminate()
        threading.Thread(target=self._insist, name="camflow-stop", daemon=True).start()

    def events(self, every: float) -> Iterator[dict | None]:
        """What it says, one object a line, until it has ended; None where it said nothing for `every` seconds."""
        while True:
            try:
                line = self._lines.get(timeout=every)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            # Anything else than an object is not camflow's.
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        return self._process.returncode

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error, once it has ended."""
        return self._said

    def _follow(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._process.wait()
        self._errors.seek(0)
        self._said = "".join(self._errors.readlines()[-ERROR_LINES:]).strip()
        self._errors.close()
        self._folder.cleanup()
        self._ended.set()
        self._lines.put(None)

    def _insist(self) -> None:
        for again in (self._process.terminate, self._process.kill):
            if self._ended.wait(PATIENCE):
                return
            again()
