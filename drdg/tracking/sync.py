"""Station 6, tracking: what waits in a spool is fetched into the store, each value once, whenever anybody is killed.

A file is removed when all of it is in the store; until then all of it is fetched again, and what is known is left out.
What a run is in the store is written down before anything of it is fetched (``runs/``), and the run says it, too.
"""

from __future__ import annotations

import bisect
import fcntl
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from drdg.files import clear_abandoned, write_json
from drdg.tracking.base import Dataset, Row
from drdg.tracking.handle import BATCH
from drdg.tracking.run_handle import RunHandle, as_stored
from drdg.tracking.spool import FILES, LINES, PENDING, read_lines
from drdg.tracking.store import SPOOLED, Store, began_at
from drdg.tracking.system import PREFIX, next_step

if TYPE_CHECKING:
    from drdg.tracking.runs import Tracking

RUNS = "runs"
LOCK = ".lock"


@dataclass(frozen=True)
class Place:
    """What a run of the spool is in the store."""

    run_id: str
    restarts: int | None
    """How often the run had been set going again when this attempt began; None: the attempt is not the run's last."""
    system_from: int | None = None
    """Step at which this attempt's values of the machine begin, after those of earlier ones; None: not known yet."""


def sync(spool: Path, tracking: Tracking) -> int:
    """Fetch all that waits in ``spool`` into the store, each value once, and return of how many runs.

    Files that a process still writes are left for later. Any number of these may be at work at once, and any may be
    killed. What belongs to a run that was deleted stays and is named on standard error. Raises ``ValueError`` when the
    store is away, or goes away; what is not fetched then waits.
    """
    spool = Path(spool)
    if not spool.is_dir():
        return 0
    if tracking.is_away:
        raise ValueError(f"what waits in {spool} cannot be fetched: {_reason(tracking)}")
    store = tracking.store
    fetched = set()
    with _alone(spool):
        clear_abandoned(spool)
        _clear_orphans(spool)
        waiting = sorted(((_header(path), path) for path in spool.glob(f"*{LINES}")), key=_age)
        # All of them first: who still writes may have begun what others belong to.
        for header, path in waiting:
            if "name" in header:
                with _naming(store, path):
                    _place(store, spool, header)
        for header, path in waiting:
            with _naming(store, path), _left_by_its_writer(path) as is_left:
                place = _place(store, spool, header) if header and is_left else None
                if place is not None:
                    _fetch(store, place, header, path)
                    fetched.add(place.run_id)
                elif is_left and not header:
                    path.unlink()  # killed before it said anything
    return len(fetched)


def fetched_as(spool: Path, run_id: str) -> str | None:
    """The store's id of a run that began in the spool, once it is fetched."""
    place = _read_place(spool, run_id)
    return None if place is None else place.run_id


def _reason(tracking: Tracking) -> str:
    try:
        return str(tracking.store)
    except ValueError as error:
        return str(error)


def _header(path: Path) -> dict[str, Any]:
    return next(read_lines(path), {})


def _age(entry: tuple[Mapping[str, Any], Path]) -> tuple[float, str]:
    return entry[0].get("time", 0), entry[1].name


@contextmanager
def _alone(spool: Path) -> Iterator[None]:
    """Wait until no other is fetching."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context((spool / LOCK).open("ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise ValueError(
                f"the spool {spool} cannot be locked ({error.strerror}); make it writable, on a file system with locks"
            ) from error
        yield


def _clear_orphans(spool: Path) -> None:
    """Remove copies whose lines are fetched: who fetched them was killed in between."""
    for folder in spool.glob(f"*{FILES}"):
        if not folder.with_suffix(LINES).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _left_by_its_writer(path: Path) -> Iterator[bool]:
    """Whether nobody writes to ``path`` any more."""
    with path.open("rb") as file:
        yield _is_free(file)


def _is_free(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _naming(store: Store, path: Path) -> Iterator[None]:
    """Let one run's trouble be no other's: only if the store does not answer at all there is no going on."""
    try:
        yield
    except ValueError as error:
        with store.reading("read"):
            store.client.get_experiment(store.experiment_id)
        print(f"warning: {path} stays as it is: {error}", file=sys.stderr, flush=True)


def _place(store: Store, spool: Path, header: Mapping[str, Any]) -> Place | None:
    """What a file's run is in the store, where it is made or set going again if need be; None: it must wait for another
    file, of the process that began the run.
    """
    run_id = header["run_id"]
    if not run_id.startswith(PENDING):
        # Values for a run that was set going again since are still its values.
        restarts = header.get("restarts")
        is_last = restarts is None or store.restarts(run_id) == restarts
        return Place(run_id, (restarts or 0) if is_last else None)
    known = _read_place(spool, run_id)
    if known is not None or "name" not in header:
        return known
    parent = header["parent"]
    if parent is not None and parent.startswith(PENDING):
        above = _read_place(spool, parent)
        if above is None:
            return None
        parent = above.run_id
    place = _begin(store, header, parent)
    _write_place(spool, run_id, place)
    return place


def _begin(store: Store, header: Mapping[str, Any], parent: str | None) -> Place:
    stamp, began = {SPOOLED: header["run_id"]}, header["time"]
    tags = {**header["tags"], **stamp}
    with store.writing():
        run = store.find(header["name"], parent, tags)
        if run is None:
            return Place(store.create(header["name"], parent, tags, began), 0)
        run_id, seen = str(run.info.run_id), run.data.tags
        if seen.get(SPOOLED) == header["run_id"]:  # who began it here was killed before writing that down
            return Place(run_id, store.restarts(run_id))
        if began < began_at(run):
            return Place(run_id, None)
        return Place(run_id, store.reopen(run, stamp, began))


def _read_place(spool: Path, run_id: str) -> Place | None:
    try:
        return Place(**json.loads((spool / RUNS / f"{run_id}.json").read_bytes()))
    except FileNotFoundError:
        return None


def _write_place(spool: Path, run_id: str, place: Place) -> None:
    write_json(spool / RUNS / f"{run_id}.json", asdict(place))


def _fetch(store: Store, place: Place, header: Mapping[str, Any], path: Path) -> None:
    """Fetch all of a file and remove it."""
    handle = RunHandle(store, place.run_id, fresh=False, owner=False)
    is_last = place.restarts is not None
    if is_last and header.get("tags"):
        handle.tags(header["tags"])
    if header.get("params"):
        handle.params(header["params"])
    rows: list[Row] = []
    end: Mapping[str, Any] = {}
    beside = path.with_suffix(FILES)
    for record in islice(read_lines(path), 1, None):
        rows += [(name, value, when, step) for name, value, when, step in record.get("rows", ())]
        if "tags" in record:
            if is_last:
                handle.tags(record["tags"])
        elif "params" in record:
            handle.params(record["params"])
        elif "artifact" in record:
            copy, folder = beside / record["artifact"], record["folder"]
            if is_last:
                handle.artifact(copy, folder)
            else:
                _put_missing(store, handle, copy, folder)
        elif "text" in record:
            if is_last or not _has(store, place.run_id, PurePath(record["as"])):
                handle.text(record["text"], record["as"])
        elif "model" in record:
            handle.model(record["model"], record["kind"], beside / record["weights"])
        elif "inputs" in record:
            handle.inputs({context: Dataset(**data) for context, data in record["inputs"].items()})
        elif "end" in record:
            end = record
    if header["run_id"].startswith(PENDING) and any(name.startswith(PREFIX) for name, *_ in rows):
        # Those of the machine are numbered from 0 by each attempt that does not know of others.
        shift = _system_from(store, path.parent, header["run_id"], place)
        rows = [(n, v, t, s + shift) if n.startswith(PREFIX) else (n, v, t, s) for n, v, t, s in rows]
    _log(store, place.run_id, rows)
    if end and header.get("owner") and is_last and store.restarts(place.run_id) == place.restarts:
        with store.writing():
            store.client.set_terminated(place.run_id, end["end"], end["time"])
    path.unlink()
    shutil.rmtree(beside, ignore_errors=True)


def _system_from(store: Store, spool: Path, run_id: str, place: Place) -> int:
    """The step at which the attempt's values of the machine begin; written down, as some may be fetched already."""
    if place.system_from is not None:
        return place.system_from
    with store.reading("read"):
        names = [name for name in store.client.get_run(place.run_id).data.metrics if name.startswith(PREFIX)]
    first = next_step(store.last_step(place.run_id, name) for name in names)
    _write_place(spool, run_id, replace(place, system_from=first))
    return first


def _put_missing(store: Store, handle: RunHandle, copy: Path, folder: str | None) -> None:
    """Keep of a file, or a folder's files, what the run, which went on since, has not made anew."""
    for path in sorted(copy.rglob("*")) if copy.is_dir() else [copy]:
        place = PurePath(folder or "", path.relative_to(copy) if copy.is_dir() else path.name)
        if path.is_file() and not _has(store, handle.run_id, place):
            handle.artifact(path, None if place.parent == PurePath() else str(place.parent))


def _has(store: Store, run_id: str, path: PurePath) -> bool:
    """Whether the run has an artifact ``path``."""
    folder = "" if path.parent == PurePath() else str(path.parent)
    with store.reading("read"):
        return any(PurePath(file.path) == path for file in store.client.list_artifacts(run_id, folder or None))


def _log(store: Store, run_id: str, rows: list[Row]) -> None:
    """Log the values that the run does not have."""
    from mlflow.entities import Metric

    known: dict[str, Known] = {}
    for start in range(0, len(rows), BATCH):
        with store.writing():
            new = []
            for row in rows[start : start + BATCH]:
                name = row[0]
                if name not in known:
                    known[name] = Known(store.client.get_metric_history(run_id, name))
                if known[name].is_new(row):
                    new.append(Metric(*row))
            if new:
                store.client.log_batch(run_id, metrics=new)


class Known:
    """The values that a run has of one name."""

    def __init__(self, history: list[Any]) -> None:
        self._steps: dict[int, list[tuple[int, Any]]] = {}
        for metric in history:
            self._steps.setdefault(metric.step, []).append((metric.timestamp, as_stored(metric.value)))
        for values in self._steps.values():
            values.sort(key=lambda entry: entry[0])

    def is_new(self, row: Row) -> bool:
        """Whether a value is neither there nor what a step was at before or after it; it is there from now on.

        An attempt that continues from a checkpoint logs values again that its predecessor logged at another time.
        """
        _, value, when, step = row
        values, stored = self._steps.setdefault(step, []), as_stored(value)
        if (when, stored) in values:
            return False
        at = bisect.bisect_right([time for time, _ in values], when)
        if any(neighbour == stored for _, neighbour in values[max(0, at - 1) : at + 1]):
            return False
        values.insert(at, (when, stored))
        return True
