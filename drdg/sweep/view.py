"""Station 6, sweep: how a sweep looks: its table of cells and stages, and what is said below it.

States are told by a sign and a word, never by colour alone. All fits into 80 columns; where a terminal is too low for
every cell, those that have nothing new to say share a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from drdg.sweep.estimate import duration, seconds_left
from drdg.sweep.plan import Cell, Sweep
from drdg.sweep.reasons import called
from drdg.sweep.spec import REPORT, ROW_STAGES, SHARDS
from drdg.sweep.states import JobState, State
from drdg.tracking.names import shorten

# Colours of Okabe and Ito, which people of every colour vision tell apart, on dark and light grounds.
SIGNS = {
    State.DONE: ("✓", "+", "#009e73"),
    State.RUNNING: ("▶", ">", "#56b4e9"),
    State.WAITING: ("·", ".", ""),
    State.NEW: ("○", "o", ""),
    State.FAILED: ("✗", "x", "#d55e00"),
    State.BLOCKED: ("–", "-", "#e69f00"),
    State.LOST: ("!", "!", "#cc79a7"),
    State.CANCELLED: ("■", "#", "#e69f00"),
}
BAD = (State.FAILED, State.LOST, State.CANCELLED)
STAGE_WIDTH = 12
MOST_FAILURES, MOST_REASONS, LONGEST_ERROR = 8, 3, 300


class View:
    """A sweep at one moment, for rich to draw."""

    def __init__(self, sweep: Sweep, states: Mapping[str, JobState], now: float | None = None) -> None:
        self.sweep, self.states, self.now = sweep, states, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = options.ascii_only
        width = options.max_width
        head = [_fit(line, width, plain) for line in self._head(plain)]
        feet = [_fit(line, width, plain) for line in self._feet(plain)]
        # The last line of a terminal is the cursor's.
        used = sum(len(line.wrap(console, width)) for line in (*head, *feet)) + 1
        room = console.height - used if console.is_terminal else None
        yield from head
        for line in self._table(plain, room):
            yield _fit(line, width, plain)
        yield from feet

    def _head(self, plain: bool) -> list[Text]:
        only = self.sweep.directions[0].name if len(self.sweep.directions) == 1 else ""
        lines = [Text(f"{self.sweep.name}{': ' + only if only else ''}", "bold")]
        for direction in self.sweep.directions:
            key = f"{direction.name}/{SHARDS}"
            line = Text(f"shards{'' if only else ' of ' + direction.name}: ")
            lines.append(line + self._sign(key, plain))
        return lines

    def _table(self, plain: bool, room: int | None) -> list[Text]:
        names = max(len("row"), *(len(cell.row) for cell in self.sweep.cells))
        seeds = max(len("seed"), *(len(str(cell.seed)) for cell in self.sweep.cells))
        several = len(self.sweep.directions) > 1
        title = f"{'row':<{names}} {'seed':>{seeds}}  " + " ".join(f"{stage:<{STAGE_WIDTH}}" for stage in ROW_STAGES)
        lines = [Text(title.rstrip(), "underline")]
        groups = [
            [cell for cell in self._in_table_order() if cell.direction == direction.name]
            for direction in self.sweep.directions
        ]
        space = None if room is None else room - 1 - several * len(groups)
        shown, quiet = self._chosen(self._in_table_order(), space)
        for direction, group in zip(self.sweep.directions, groups, strict=True):
            if several:
                lines.append(Text(direction.name, "italic"))
            for cell in group:
                if cell.key in shown:
                    line = Text(f"{cell.row:<{names}} {cell.seed:>{seeds}}  ")
                    for stage in ROW_STAGES:
                        line.append(_padded(self._sign(f"{cell.key}/{stage}", plain), STAGE_WIDTH + 1))
                    lines.append(line)
        return [*lines, *quiet]

    def _in_table_order(self) -> list[Cell]:
        """By row, its seeds together; rows that others only learn from come last."""
        rows = list(dict.fromkeys(cell.row for cell in self.sweep.cells))
        return sorted(self.sweep.cells, key=lambda cell: (not cell.is_asked, rows.index(cell.row), cell.seed))

    def _chosen(self, cells: Sequence[Cell], space: int | None) -> tuple[set[str], list[Text]]:
        """The cells that have lines of their own, and the lines of those that share one."""
        everything = {cell.key for cell in cells}
        if space is None or len(cells) <= space:
            return everything, []
        ranked = sorted(cells, key=lambda cell: self._rank(cell))
        shown = {cell.key for cell in ranked[: max(1, space - 2)]}
        lines = []
        for rank, word in ((2, "not begun"), (3, "done")):
            left = Counter(cell.row for cell in cells if cell.key not in shown and self._rank(cell) == rank)
            if left:
                rows = ", ".join(f"{row} ({count})" if count > 1 else row for row, count in left.items())
                lines.append(Text(f"and {left.total()} {word}: {rows}", "dim"))
        hidden = sum(self._rank(cell) < 2 for cell in cells if cell.key not in shown)
        if hidden:
            lines.append(Text(f"and {hidden} that run or have failed; a higher window shows them", "dim"))
        return shown, lines

    def _rank(self, cell: Cell) -> int:
        """How much a person wants to see a cell: 0 in trouble, 1 at work, 2 not begun, 3 done."""
        found = {self.states[key].state for key in cell.own_jobs}
        if found & {*BAD, State.BLOCKED}:
            return 0
        if found == {State.DONE}:
            return 3
        return 1 if found & {State.RUNNING, State.DONE} else 2

    def _feet(self, plain: bool) -> list[Text]:
        count = Text(counted(self.sweep, self.states, self.now), overflow="fold")
        lines = [Text("report: ") + self._sign(REPORT, plain), count]
        if waits := self._reasons():
            lines.append(Text(waits))
        troubles = [key for key, now in self.states.items() if now.state in BAD]
        for key in troubles[:MOST_FAILURES]:
            now = self.states[key]
            said = shorten(f"{_sign_of(now.state, plain)} {in_words(self.sweep, key)} {trouble(now)}", LONGEST_ERROR)
            lines.append(Text(said, _style(now.state), overflow="fold"))
            if now.log:
                # Whole, as somebody copies it.
                lines.append(Text(f"  log: {now.log}", overflow="fold"))
        if len(troubles) > MOST_FAILURES:
            lines.append(Text(f"and {len(troubles) - MOST_FAILURES} more"))
        return lines

    def _reasons(self) -> str:
        """Why jobs wait that wait for something else than each other."""
        found = Counter(
            now.about
            for now in self.states.values()
            if now.state is State.WAITING and now.about and "Depend" not in now.about
        )
        return "; ".join(f"{count} wait{'s' * (count == 1)}: {why}" for why, count in found.most_common(MOST_REASONS))

    def _sign(self, key: str, plain: bool) -> Text:
        now = self.states.get(key)
        if now is None:
            return Text()
        word = now.state.value
        if now.state is State.RUNNING:
            word = at_work(now, self.now)
        return Text(f"{_sign_of(now.state, plain)} {word}", _style(now.state))


def counted(sweep: Sweep, states: Mapping[str, JobState], now: float | None = None) -> str:
    """How many jobs there are of each state, and how long the rest may take."""
    count = Counter(state.state for state in states.values())
    words = [f"{count[State.DONE]} of {len(states)} jobs done"]
    words += [f"{count[state]} {state.value}" for state in State if state is not State.DONE and count[state]]
    line = ", ".join(words)
    if not any(state.alive for key, state in states.items() if key != REPORT):
        return line  # the report takes no time to speak of
    left = seconds_left(sweep, states, now)
    return line + ("; time left: not known yet" if left is None else f"; about {duration(left)} left")


def at_work(now: JobState, clock: float | None = None) -> str:
    """How far a running job is and how long it still takes: ``42% 1h05m``."""
    if now.progress is None or not now.progress.total:
        return now.about or now.state.value
    left = now.left_s(clock)
    # Never 100 %: it is not done yet.
    share = min(99, 100 * now.progress.done // now.progress.total)
    return f"{share}%" + (f" {duration(left)}" if left is not None else "")


def in_words(sweep: Sweep, key: str) -> str:
    """A job for people: ``stage gan of row drdg, seed 1``, with its direction where there are several."""
    job = sweep.jobs[key]
    place = key.split("/")
    words = called(key, job.stage)
    if job.stage in ROW_STAGES:
        words += f", seed {place[-3].removeprefix('seed')}"
    if len(sweep.directions) > 1 and job.stage != REPORT:
        words += f", {place[0]}"
    return words


def trouble(now: JobState) -> str:
    """What is wrong with a job, after its name."""
    verb = {State.FAILED: "failed", State.LOST: "is lost", State.CANCELLED: "was cancelled"}.get(
        now.state, now.state.value
    )
    return f"{verb}: {now.about}" if now.about else verb


def _sign_of(state: State, plain: bool) -> str:
    return SIGNS[state][1 if plain else 0]


def _style(state: State) -> Style:
    colour = SIGNS[state][2]
    return Style(color=colour or None, bold=state in BAD)


def _padded(text: Text, width: int) -> Text:
    text.append(" " * max(0, width - cell_len(text.plain)))
    return text


def _fit(line: Text, width: int, plain: bool) -> Text:
    """One line of the terminal, cut where that ends, unless it is to go on in the next."""
    if line.overflow != "fold" and cell_len(line.plain) > width:
        dots = "..." if plain else "…"
        line.truncate(width - len(dots))
        line.append(dots)
    return line
