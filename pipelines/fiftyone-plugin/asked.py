"""Commands of `camflow` that read stored heatmaps and answer in numbers, as operators: they run on what is open in the App."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from . import program, show
from ._camflow.collection import selection

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

    from ._camflow.process import Run

# Seconds between two looks at the run, and at whether anybody still waits for it.
BEAT = 1.0
# What ends a run's events.
END = object()


class Asking(foo.Operator):
    """An operator that runs one command to its end and shows what it answers."""

    # The command, what the App says meanwhile, what its button says, and whether the command writes a page, which the App has no place for.
    command: str
    doing: str
    button: str
    writes_page = False

    def form(self, ctx: ExecutionContext, inputs: types.Object) -> None:
        """What it asks beside the samples."""
        raise NotImplementedError

    def arguments(self, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        """(flags, names) of what was filled in; names stand behind all flags."""
        raise NotImplementedError

    def answer(self, ctx: ExecutionContext, numbers: dict[str, Any]) -> dict[str, Any]:
        """What the command's `--json` says, for people: `summary`, in Markdown, and for `show_heatmaps` what it takes."""
        raise NotImplementedError

    def resolve_input(self, ctx: ExecutionContext) -> types.Property:
        inputs = types.Object()
        inputs.view_target(ctx, action_description=f"{self.config.label.partition(': ')[2].capitalize()} of")
        self.form(ctx, inputs)
        view = types.PromptView(label=self.config.label, submit_button_label=self.button)
        return types.Property(inputs, view=view)

    def resolve_output(self, ctx: ExecutionContext) -> types.Property | None:
        return self._shown(ctx.results) if ctx.results else None

    def execute(self, ctx: ExecutionContext) -> dict[str, Any] | AsyncIterator[Any]:
        given, named = self.arguments(ctx.params)
        flags = [self.command, f"--dataset={ctx.dataset.name}", *given]
        asked = program.find(), flags, named, selection(_samples(ctx), of_labels=False), self.writes_page
        return self._immediate(ctx, asked) if program.is_streamed(ctx) and not ctx.delegated else self._delegated(ctx, asked)

    def _delegated(self, ctx: ExecutionContext, asked: tuple[Any, ...]) -> dict[str, Any]:
        """Also where it is called from Python, which has its result then."""
        with _running(*asked) as (run, numbers):
            for _ in run.events(BEAT):
                ctx.set_progress(label=self.doing)
            return self._answered(ctx, run, numbers)

    async def _immediate(self, ctx: ExecutionContext, asked: tuple[Any, ...]) -> AsyncIterator[Any]:
        """Closing the page ends the run: the server cancels the task that waits here."""
        with _running(*asked) as (run, numbers):
            events = run.events(BEAT)
            while await asyncio.to_thread(next, events, END) is not END:
                yield ctx.ops.set_progress(label=self.doing)
            try:
                results = self._answered(ctx, run, numbers)
            except program.CamflowError as error:
                # Raised in the middle of a stream, an error would reach the page as a lost connection, without its text.
                yield ctx.ops.show_output(*program.told(error))
                return
        yield ctx.ops.reload_dataset()
        yield ctx.ops.show_output(self._shown(results).to_json(), results)

    def _answered(self, ctx: ExecutionContext, run: Run, numbers: Path) -> dict[str, Any]:
        run.check()
        if not numbers.exists():
            raise program.CamflowError(run.said.removeprefix("error: "))
        ctx.dataset.reload()
        return self.answer(ctx, json.loads(numbers.read_text()))

    def _shown(self, results: dict[str, Any]) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label=self.config.label, view=types.MarkdownView())
        if params := results.get("show"):
            outputs.btn("show", label="Show", icon="visibility", variant="contained", on_click=show.URI, params=params)
        return types.Property(outputs)


@contextmanager
def _running(
    name: str, flags: list[str], named: list[str], files: dict[str, str], writes_page: bool
) -> Iterator[tuple[Run, Path]]:
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        numbers = Path(folder) / "numbers.json"
        # A file of samples goes before the names, behind which nothing is a flag.
        for flag, content in files.items():
            path = Path(folder) / flag.strip("-")
            path.write_text(content)
            flags = [*flags, f"{flag}={path}"]
        page = [f"--out={Path(folder) / 'page.html'}"] if writes_page else []
        run = program.start(name, [*flags, *page, f"--json={numbers}", *(["--", *named] if named else [])], {})
        try:
            yield run, numbers
        finally:
            run.close()


def _samples(ctx: ExecutionContext) -> fo.Dataset | fo.DatasetView:
    chosen = ctx.target_view()
    if not isinstance(chosen, fo.Dataset) and chosen.media_type == fo.core.media.GROUP:
        return ctx.flatten_group_slices(chosen, media_type="image")
    return chosen


def choices(view: types.Choices, values: Iterable[str]) -> types.Choices:
    """A list to choose from, each value by its own name."""
    for value in values:
        view.add_choice(value, label=value)
    return view


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
