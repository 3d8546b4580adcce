"""Station 6, doctor: ranks, what they answered, and how they are called in sentences."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)
# Of five hundred ranks that all have the same trouble, these are enough to look at.
MOST_NAMES = 4


@dataclass(frozen=True, order=True)
class Rank:
    """A rank and where it runs."""

    number: int
    host: str
    local: int = 0
    local_size: int = 1


@dataclass(frozen=True)
class Answer:
    """What a probe gave on a rank."""

    who: Rank
    value: Mapping[str, Any]


def named(ranks: Iterable[Rank]) -> str:
    """Ranks as a sentence names them, with their hosts: ``ranks 0-3 on node1``."""
    each = sorted(set(ranks))
    word = "rank" if len(each) == 1 else "ranks"
    return f"{word} {numbers([rank.number for rank in each])} on {listed(sorted({rank.host for rank in each}))}"


def numbers(values: Sequence[int]) -> str:
    """Whole numbers in ascending order with runs drawn together: ``0-3, 6``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return listed([str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs])


def listed(words: Sequence[str]) -> str:
    """Words after each other; of many the first few, and how many there are beside them."""
    if len(words) <= MOST_NAMES + 1:
        return ", ".join(words)
    return f"{', '.join(words[:MOST_NAMES])} and {len(words) - MOST_NAMES} more"


def leaders(ranks: Iterable[Rank]) -> list[Rank]:
    """The first rank of each host, for what is the same for all ranks of one."""
    first: dict[str, Rank] = {}
    for rank in sorted(ranks):
        first.setdefault(rank.host, rank)
    return list(first.values())


def groups(answers: Iterable[Answer], key: Callable[[Mapping[str, Any]], T]) -> dict[T, list[Rank]]:
    """The ranks by what ``key`` makes of their answers, that of the most ranks first."""
    found: dict[T, list[Rank]] = {}
    for answer in answers:
        found.setdefault(key(answer.value), []).append(answer.who)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def milliseconds(seconds: float) -> str:
    """A time in the unit that people say it in."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
