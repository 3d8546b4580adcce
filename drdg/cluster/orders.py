"""Station 6, cluster: what was handed in, written down so that nothing is handed in twice.

A cluster cannot be asked to take a job unless it has it, so an order is written down before, under a name that nothing
else has, and what came of it after. Where the process was killed between the two, the name tells.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from drdg.cluster.locks import holding
from drdg.cluster.state import Alive, logs_of, say
from drdg.files import write_json
from drdg.sweep.spec import JobSpec

ORDERS, LOCK, SPEC = "orders.json", "orders.lock", "spec.json"
VERSION = 1
# Slurm cuts longer names.
LONGEST_NAME = 63


@dataclass(frozen=True)
class Order:
    """One job that was, or is just being, handed in."""

    key: str
    digest: str
    kind: str
    """The executor's."""
    token: str
    """Unique to this call of the scheduler, which may be for several jobs: the name that it knows them by."""
    at: float
    needs: tuple[str, ...] = ()
    """Those of its needs that were not done yet."""
    index: int | None = None
    """Its place in a job array."""
    job_id: str = ""
    """The scheduler's; empty until it has said so, or (``local``) has begun the job."""
    ended: str = ""
    """How it ended, if that was seen: nobody need ask any more."""
    reason: str = ""
    """More of how it ended, or why it waits."""
    # What follows is of jobs on this machine alone.
    stage: str = ""
    function: str = ""
    folder: str = ""
    """Where the command was given."""
    state: Alive = "waiting"
    cores: int = 1
    gpus: int = 0
    on_cores: tuple[int, ...] = ()
    on_gpus: tuple[int, ...] = ()
    pid: int = 0
    began: float = 0.0
    """The process's, as the kernel has it."""
    cancelled_at: float = 0.0
    """When it was asked to end; 0 if it was not."""

    def log(self, folder: Path) -> str:
        """What the job prints, of its first process."""
        return str(logs_of(folder, self.token) / f"{self.job_id}_0_log.out") if self.job_id else ""


@dataclass
class Orders:
    """All orders of a sweep, oldest first; the last of a key is the one that counts."""

    folder: Path
    orders: list[Order] = field(default_factory=list)

    def latest(self, kind: str) -> dict[str, Order]:
        """The orders of this kind that count, by their jobs' keys."""
        return {order.key: order for order in self.orders if order.kind == kind}

    def add(self, orders: Iterable[Order]) -> None:
        """Write further ones down."""
        new = list(orders)
        keys = {order.key for order in new}
        # Of each job no more is kept than the last that ended, besides what may be alive.
        self.orders = [order for order in self.orders if not (order.ended and order.key in keys)] + new
        self.save()

    def change(self, is_it: Callable[[Order], bool], **values: Any) -> None:
        """Set ``values`` in those orders; nothing is written yet."""
        self.orders = [replace(order, **values) if is_it(order) else order for order in self.orders]

    def record(self, token: str, number: str) -> None:
        """Write down the scheduler's number of what was handed in as ``token``."""
        self.orders = [
            replace(order, job_id=number if order.index is None else f"{number}_{order.index}")
            if order.token == token
            else order
            for order in self.orders
        ]
        self.save()

    def number(self, token: str) -> str:
        """The scheduler's number of what was handed in as ``token``; empty where nothing came of it."""
        return next((order.job_id.partition("_")[0] for order in self.orders if order.token == token), "")

    def drop(self, token: str) -> None:
        """Forget an intention that nothing came of."""
        self.orders = [order for order in self.orders if order.token != token]
        self.save()

    def save(self) -> None:
        """Write all of it, whole."""
        write_json(self.folder / ORDERS, {"version": VERSION, "orders": [asdict(order) for order in self.orders]})


def read_orders(folder: Path) -> Orders:
    """What was handed in so far. Raises ``ValueError`` where the file is of a newer version or no such file."""
    path = folder / ORDERS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] == VERSION:
            return Orders(folder, [_read(order) for order in values["orders"]])
        said = f"is of version {values['version']}, not {VERSION}; take the drdg that wrote it"
    except FileNotFoundError:
        return Orders(folder)
    except (ValueError, TypeError, KeyError):
        said = "cannot be read; end this sweep's jobs and remove it"
    raise ValueError(f"{path}: {said}")


def _read(values: dict[str, Any]) -> Order:
    return Order(**_with_tuples(values))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@contextmanager
def locked_orders(folder: Path, quiet: bool = False) -> Iterator[Orders]:
    """The orders, which nobody else changes within the block. Says who does where it must wait."""

    def waits(who: str) -> None:
        if not quiet:
            say(f"waits for {who}, which is handing in jobs of {folder}")

    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / LOCK, waits):
        yield read_orders(folder)


def new_orders(kind: str, name: str, jobs: Sequence[JobSpec], **values: Any) -> list[Order]:
    """What is written down before ``jobs`` are handed in, in one call that is known by ``name`` and a number."""
    token, at = new_token(name), time.time()
    return [
        Order(
            *(job.key, job.digest, kind, token, at),
            index=index if len(jobs) > 1 else None,
            stage=job.stage,
            **values,
        )
        for index, job in enumerate(jobs)
    ]


def stale_orders(jobs: Sequence[JobSpec], alive: Mapping[str, Order]) -> list[Order]:
    """Jobs that are alive but not what is wanted now, or do not wait for one that they need, which is to run again."""
    stale: list[Order] = []
    again: set[str] = set()
    for job in jobs:
        order = alive.get(job.key)
        if order is not None and order.digest == job.digest and not again & set(job.needs):
            continue
        again.add(job.key)
        if order is not None:
            stale.append(order)
    return stale


def new_token(name: str) -> str:
    """A name for a scheduler that is unique and can be read; of a long one the end, which says more."""
    first = f"drdg-{uuid.uuid4().hex[:8]}-"
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", name)
    return first + readable[-(LONGEST_NAME - len(first)) :].strip("-")


def write_spec(job: JobSpec) -> None:
    """Keep in its folder all that the job is told, for who begins it later."""
    write_json(job.place / SPEC, job.as_json())


def read_spec(place: Path) -> JobSpec:
    """What :func:`write_spec` has kept."""
    values = json.loads((place / SPEC).read_text(encoding="utf-8"))
    return JobSpec(**_with_tuples(values))
