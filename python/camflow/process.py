"""Running the `camflow` program: finding it, following its JSON lines, ending it."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .events import Event, parse

# Seconds that a run has to finish what is in flight before it is told again, and then before it is killed.
PATIENCE = 60
# The exit code of a run that was asked to stop.
INTERRUPTED = 130
# The last lines of standard error that a message shows.
ERROR_LINES = 20


class CamflowError(Exception):
    """camflow is not there, or has given up; the text is its own."""


class NotFoundError(CamflowError):
    """There is no program `camflow`."""


def find() -> str:
    """The program: `CAMFLOW_BIN`, else what the PATH or the folder of this Python holds.

    Raises:
        NotFoundError: there is none.
        CamflowError: CAMFLOW_BIN names none.
    """
    named = os.environ.get("CAMFLOW_BIN")
    if named:
        if found := shutil.which(Path(named).expanduser()):
            return found
        raise CamflowError(f"CAMFLOW_BIN is `{named}`, and no program is there")
    # An environment's programs are on the PATH only where it was activated.
    found = shutil.which("camflow") or shutil.which("camflow", path=str(Path(sys.executable).parent))
    if found:
        return found
    raise NotFoundError(
        "no program `camflow` on the PATH or beside this Python\n"
        "hint: install it into this environment with `pip install .` in camflow's folder, or set CAMFLOW_BIN to its path"
    )


class Run:
    """A `camflow` that reports in JSON lines, until it ends or is closed."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        own_group: bool = False,
    ) -> None:
        """Starts `PROGRAM ARGUMENTS`, which should have `--format=json` among them.

        Each of `files` is the content of a file for the flag that is its name. `environment` stands for this process's own.
        With `own_group` it does not hear a Ctrl-C that is typed for this process: whoever started it decides what that means.

        Raises:
            CamflowError: it does not start.
        """
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
                env=environment,
                preexec_fn=os.setpgrp if own_group else None,  # noqa: PLW1509  (`process_group` is Python 3.11's)
            )
        except OSError as error:
            self._folder.cleanup()
            raise CamflowError(f"`{program}` does not start: {error}") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ended = threading.Event()
        self._said = ""
        threading.Thread(target=self._follow, name="camflow", daemon=True).start()

    def stop(self) -> None:
        """Asks it to finish what is in flight and to end; asked again, it ends at once. What it says till then is still to be read."""
        self._process.terminate()

    def close(self) -> None:
        """Asks it to stop, if it has not ended. Whoever closes it may be the server's only thread, so this does not wait."""
        if self._ended.is_set():
            return
        self.stop()
        threading.Thread(target=self._insist, name="camflow-stop", daemon=True).start()

    def events(self, every: float) -> Iterator[Event | None]:
        """What it says, one object a line, until it has ended; None where it said nothing for `every` seconds."""
        while True:
            try:
                line = self._lines.get(timeout=every)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            if event := parse(line):
                yield event

    @property
    def code(self) -> int:
        """The exit code, once it has ended; below 0, the signal that ended it."""
        return self._process.returncode

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error, once it has ended."""
        return self._said

    def check(self, error: str | None = None) -> None:
        """Looks at how it has ended, after it said `error`; 1 is one that came to its end, with failures.

        Raises:
            CamflowError: it gave up, or was ended.
        """
        if self.code in (0, 1):
            return
        what = "camflow was killed" if self.code < 0 else "camflow was stopped" if self.code == INTERRUPTED else "camflow ended"
        # What another program said, the exporter, is in no event.
        is_told = error and "stands above" not in error
        text = (error if is_told else self.said) or ""
        # What flags there are is no help to those who call this from Python.
        for rest in ("\n\nUsage: ", "\n\nFor more information, "):
            text = text.partition(rest)[0]
        text = text.removeprefix("error: ")
        raise CamflowError(text or f"{what} (exit code {self.code})")

    def _follow(self) -> None:
        assert self._process.stdout, "it was started with a pipe"
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
