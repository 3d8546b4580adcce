"""Station 6, stages: starting several ranks of a stage on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from drdg.cli import LAST_WORD
from drdg.config import Config, to_yaml
from drdg.distributed.group import fair_threads
from drdg.files import write_text
from drdg.stages.parent import STARTED_BY
from drdg.stages.workspace import Stage
from drdg.tracking import Handle
from drdg.training.preemption import INTERRUPTED, TRY_AGAIN


def start_ranks(stage: Stage, config: Config, ranks: int, run: Handle) -> None:
    """Start so many ``ranks`` of a stage of the run's ``config`` by torch's own launcher, and wait.

    Raises ``ValueError`` when one of them fails, with what it has said. When this process is killed they die as well:
    others may be at their stage soon.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = stage.folder / "config.yaml"
    write_text(settings, to_yaml(config))
    last_word = stage.folder / "last_word.txt"
    last_word.unlink(missing_ok=True)
    told = {**run.environment(), LAST_WORD: str(last_word), STARTED_BY: str(os.getpid())}
    threads = config.distributed.threads or fair_threads(ranks)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=stage.digest,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port of the loopback interface
        max_restarts=0,
        # All of these reach the ranks as SIGTERM; without being named, the last two would leave them without a parent.
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
    )
    command = ("-m", "drdg.stages.rank", stage.name, "--row", stage.row, "--config", str(settings))
    with environment({**told, "OMP_NUM_THREADS": str(threads)}), own_signal_handlers():
        try:
            elastic_launch(launch, sys.executable)(*command)
        except ChildFailedError as error:
            # Rank 0 alone ends so, and has said so.
            if (status := error.failures[0].exitcode if 0 in error.failures else 0) in (TRY_AGAIN, INTERRUPTED):
                stopped = KeyboardInterrupt()
                stopped.status, stopped.said_elsewhere = status, True  # type: ignore[attr-defined]
                raise stopped from error
            said = last_word.read_text(encoding="utf-8") if last_word.is_file() else "the reason is above"
            raise ValueError(f"row {stage.row}: a rank of its stage {stage.name} failed: {said}") from error
        except SignalException as error:
            raise KeyboardInterrupt(str(error)) from error


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Put back this process's signal handlers after the block; torch's launcher installs its own and leaves them."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = {name: signal.getsignal(name) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def environment(added: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes started in the block."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
