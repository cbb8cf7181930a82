"""pytest with the files of tests shared out among several processes, for `scripts/test.sh`:

    .venv/bin/python scripts/parallel_pytest.py [--processes N] [ARGUMENTS OF pytest]

The tests are collected here, and the processes are copies of this one. Each takes a file at a time and reports what came of it; here
the reports go through pytest's own reporter, file by file, so that what is printed, its last line and the exit code are those of one
pytest. A file's tests stay in one process and in their order. Fixtures for the session (the database, its dataset) are made once in
each process. Files that say so (`pytestmark = pytest.mark.begins`) begin, as they take minutes: at the end all other processes would
wait for one. There are two processes more than there are cores, as tests wait for databases and disks, but while a browser is open.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from queue import Queue
from typing import NoReturn

import pytest

# How a process ends whose tests were all reported.
USUAL = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
# Each has a database, and PyTorch in memory.
MOST_PROCESSES = 4
# Whoever has it waits for what a browser draws, which takes its time on a busy machine.
BROWSER = "chromium"
# The mark of files that take minutes.
BEGINS = "begins"
CORES = len(os.sched_getaffinity(0))


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def files_of(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """The tests of each file."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(file_of(item.nodeid), []).append(item)
    return list(found.values())


def begins(items: list[pytest.Item]) -> bool:
    return any(item.get_closest_marker(BEGINS) for item in items)


def needs_browser(items: list[pytest.Item]) -> bool:
    return any(BROWSER in getattr(item, "fixturenames", ()) for item in items)


class Process:
    """A copy of this process with its collected tests, which runs the files that it is told."""

    def __init__(self, session: pytest.Session, before: list[Process]):
        orders, self.orders = os.pipe()
        self.answers, to_here = os.pipe()
        # The tests of the file that it has.
        self.items: list[pytest.Item] = []
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            # Whoever has the end of a pipe keeps it open.
            for end in (self.orders, self.answers, *(end for other in before for end in (other.orders, other.answers))):
                os.close(end)
            work(session, orders, to_here)
        os.close(orders)
        os.close(to_here)

    def listen(self, messages: Queue) -> None:
        with os.fdopen(self.answers, "rb") as answers:
            while True:
                try:
                    messages.put((self, *pickle.load(answers)))
                except (EOFError, pickle.UnpicklingError):
                    break
        self.wait()
        messages.put((self, "ended", self.code))

    def wait(self) -> None:
        """Only one of those that wait at once is told."""
        with contextlib.suppress(ChildProcessError):
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def tell(self, line: str) -> None:
        """Nobody reads it if the process has ended, which is told by itself."""
        try:
            os.write(self.orders, f"{line}\n".encode())
        except BrokenPipeError:
            return


class Coordinator:
    """Runs the tests of a session in copies of this process."""

    def __init__(self, num_processes: int):
        self.messages: Queue = Queue()
        self.num_processes = num_processes
        self.processes: list[Process] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        if session.config.option.collectonly:
            return True
        self.waiting = deque(sorted(files_of(session.items), key=lambda items: not begins(items)))
        # What is loaded by now stays: nobody looks through it for garbage, which would be a copy of it for each process.
        gc.freeze()
        for _ in range(self.num_processes):
            self.processes.append(Process(session, self.processes))
        # Only now, as a copy has none of a process's threads, and what those held would be held for ever.
        for process in self.processes:
            threading.Thread(target=process.listen, args=(self.messages,), daemon=True).start()
        # Those that have nothing to do.
        self.idle: list[Process] = []
        reports: dict[Process, list] = {process: [] for process in self.processes}
        running = len(self.processes)
        while running:
            process, what, *details = self.messages.get()
            if what in ("ready", "done"):
                self.show(session, process, reports[process])
                reports[process] = []
                process.items = []
                self.idle.append(process)
                self.hand_out()
            elif what == "report":
                report = session.config.hook.pytest_report_from_serializable(config=session.config, data=details[0])
                reports[process].append(report)
            elif what == "warning":
                session.config.hook.pytest_warning_recorded.call_historic(kwargs=warning_from(details[0]))
            else:
                running -= 1
                reports[process] += [lost(item, details[0]) for item in unreported(process.items, reports[process])]
                self.show(session, process, reports[process])
                if details[0] not in USUAL and not process.items:
                    raise RuntimeError(f"a process with tests ended with {details[0]}")
                process.items = []
                if process in self.idle:
                    self.idle.remove(process)
                self.hand_out()
            if session.shouldfail or session.shouldstop:
                raise session.Failed(session.shouldfail) if session.shouldfail else session.Interrupted(session.shouldstop)
        if self.waiting:
            raise RuntimeError(f"no process is left for {', '.join(file_of(items[0].nodeid) for items in self.waiting)}")
        return True

    def hand_out(self) -> None:
        """Gives those that are idle the next files, those with a browser first; without any left, they end."""
        while self.idle and (chosen := self.next_file()):
            self.waiting.remove(chosen)
            process = self.idle.pop(0)
            process.items = chosen
            process.tell(json.dumps([item.nodeid for item in chosen]))
        while self.idle and not self.waiting:
            self.idle.pop().tell("[]")

    def next_file(self) -> list[pytest.Item] | None:
        busy = [process.items for process in self.processes if process.items]
        with_browser = next(filter(needs_browser, self.waiting), None)
        is_full = len(busy) >= max(1, min(len(self.processes) - 1, CORES))
        if any(map(needs_browser, busy)):
            return None if is_full else next((items for items in self.waiting if not needs_browser(items)), None)
        if with_browser and not is_full:
            return with_browser
        return next((items for items in self.waiting if not needs_browser(items)), None)

    def show(self, session: pytest.Session, process: Process, reports: list) -> None:
        hook = session.config.hook
        by_item: dict[str, list] = {}
        for report in reports:
            by_item.setdefault(report.nodeid, []).append(report)
        for item in process.items:
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in by_item.get(item.nodeid, [lost(item, None)]):
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def pytest_sessionfinish(self) -> None:
        unfinished = [process for process in self.processes if process.code is None]
        for process in unfinished:
            # As Ctrl-C: its databases are stopped, too.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        for process in unfinished:
            process.wait()


def unreported(items: list[pytest.Item], reports: list) -> list[pytest.Item]:
    # The last report of a test is that of its teardown.
    over = {report.nodeid for report in reports if report.when == "teardown"}
    return [item for item in items if item.nodeid not in over]


def lost(item: pytest.Item, code: int | None) -> pytest.TestReport:
    """A test that did not come to its end is a test that failed."""
    words = "its process did not run it" if code is None else f"its process ended with {code} before the end of this test"
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call")


def warning_from(data: dict) -> dict:
    category = type(data["category"], (Warning,), {"__module__": data["module"]})
    message = warnings.WarningMessage(category(data["text"]), category, data["filename"], data["lineno"])
    return {"warning_message": message, **{key: data[key] for key in ("when", "nodeid", "location")}}


class Worker:
    """Runs the files that it is told, and says what came of them."""

    def __init__(self, session: pytest.Session, orders: int, answers: int):
        self.config = session.config
        self.orders, self.answers = os.fdopen(orders), os.fdopen(answers, "wb")
        plugins = self.config.pluginmanager
        # What prints, and what remembers failures, is the other process's.
        others = [plugins.get_plugin(name) for name in ("terminalreporter", "lfplugin", "nfplugin", "stepwiseplugin")]
        others += [plugin for plugin in plugins.get_plugins() if isinstance(plugin, Coordinator)]
        for plugin in filter(None, others):
            plugins.unregister(plugin)
        plugins.register(self)
        # What is captured goes to files, which would be shared.
        if (capturing := plugins.get_plugin("capturemanager")) is not None and self.config.option.capture != "no":
            capturing.stop_global_capturing()
            capturing.start_global_capturing()
            capturing.suspend_global_capture()

    def say(self, *message) -> None:
        pickle.dump(message, self.answers)
        self.answers.flush()

    def run(self, session: pytest.Session) -> None:
        by_id = {item.nodeid: item for item in session.items}
        self.say("ready")
        while chosen := json.loads(self.orders.readline()):
            items = [by_id[nodeid] for nodeid in chosen]
            # Whatever test comes next: what belongs to the file is taken down behind its last one, and the session's stays.
            file = file_of(chosen[0])
            elsewhere = next((item for item in session.items if file_of(item.nodeid) != file), None)
            for item, following in zip(items, [*items[1:], elsewhere], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.say("done")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.say("report", self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_warning_recorded(self, warning_message, when, nodeid, location) -> None:
        # What comes up while collecting comes up in the process that reports, too.
        if when == "runtest":
            category = warning_message.category
            text = {"text": str(warning_message.message), "category": category.__name__, "module": category.__module__}
            place = {"filename": warning_message.filename, "lineno": warning_message.lineno}
            self.say("warning", {**text, **place, "when": when, "nodeid": nodeid, "location": location})


def work(session: pytest.Session, orders: int, answers: int) -> NoReturn:
    """Runs the files that it is told, in the copy of a process, and ends it."""
    # Whoever runs all this in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = pytest.ExitCode.INTERNAL_ERROR
    try:
        worker = Worker(session, orders, answers)
        try:
            worker.run(session)
            code = pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK
        except KeyboardInterrupt:
            code = pytest.ExitCode.INTERRUPTED
        # Where a fixture of the session fails at the end, it is no failed test.
        session.config.hook.pytest_sessionfinish(session=session, exitstatus=code)
    finally:
        if sys.exc_info()[0]:
            code = pytest.ExitCode.INTERNAL_ERROR
            traceback.print_exc(file=sys.__stderr__)
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        sys.__stdout__.flush()
        sys.__stderr__.flush()
        # What would come after this is the other process's.
        os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=min(MOST_PROCESSES, CORES + 2) if CORES > 1 else 1, metavar="N")
    options, arguments = parser.parse_known_args()
    if options.processes < 2:
        return pytest.main(arguments)
    return pytest.main(arguments, plugins=[Coordinator(options.processes)])


if __name__ == "__main__":
    sys.exit(main())
