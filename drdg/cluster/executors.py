"""Station 6, cluster: which executor there is, and what opens it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

from drdg.cluster.orders import Orders, read_orders
from drdg.config.sweep import SweepConfig
from drdg.sweep.scheduler import Executor

Kind = Literal["slurm", "local", "debug"]
KINDS: tuple[Kind, ...] = ("slurm", "local", "debug")
PATIENCE_S = 15.0


def default_kind(sweep_folder: Path | None = None) -> Kind:
    """What has the jobs of the sweep in this folder, if any are alive; else ``slurm`` where a cluster answers, or
    ``local``, where there is no ``sinfo``. Raises ``ValueError`` where it cannot be read what was handed in, and where
    there is a cluster that does not answer: what was meant for it would all run on the machine that one logs in to.
    """
    if sweep_folder is not None:
        kinds = {order.kind for order in read_orders(sweep_folder.absolute()).orders if not order.ended}
        for kind in KINDS:
            if kinds == {kind}:
                return kind
    if shutil.which("sinfo") is None:
        return "local"
    try:
        asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=PATIENCE_S, check=False)
        said = f"ends with status {asked.returncode}" if asked.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        said = f"cannot be asked ({error})"
    if said:
        raise ValueError(f"sinfo {said}, so that it cannot be told where jobs are to run; take --executor local|slurm")
    return "slurm"


def open_executor(kind: str, sweep_folder: Path, settings: SweepConfig) -> Executor:
    """The executor of a sweep whose folder this is. Raises ``ValueError`` where there is none of this kind."""
    if kind not in KINDS:
        raise ValueError(f"--executor {kind}: there is none; take {', '.join(KINDS)}")
    folder = sweep_folder.absolute()
    if kind == "debug":
        from drdg.cluster.debug import DebugSweep

        return DebugSweep(folder, settings)
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError(
            "submitit, which hands in jobs, is not installed; pip install 'drdg[cluster]', or take --executor debug"
        ) from None
    if kind == "local":
        from drdg.cluster.local import LocalSweep

        return LocalSweep(folder, settings)
    from drdg.cluster.slurm import SlurmSweep

    return SlurmSweep(folder, settings)


def refuse_others(orders: Orders, kind: str, settings: SweepConfig) -> None:
    """Raise ``ValueError`` where jobs of the sweep are alive in an executor of another kind: two would do the same."""
    others = {order.kind for order in orders.orders if order.kind != kind and not order.ended}
    for other in sorted(others):
        states = open_executor(other, orders.folder, settings).states()
        if alive := [key for key, state in states.items() if state.state != "ended"]:
            raise ValueError(
                f"{orders.folder}: {len(alive)} jobs, as {alive[0]}, are still in the executor {other}; "
                f"go on with --executor {other}, or end them with it and --cancel"
            )
