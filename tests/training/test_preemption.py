"""Trainings that are told to stop, that lose a rank and that hang: how they end, and that nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from drdg.config import Config, load_config, to_yaml
from drdg.distributed.group import Group
from drdg.distributed.lost import LOST_BUT_FURTHER
from drdg.distributed.topology import Topology
from drdg.shards.store import ShardStore
from drdg.shards.stream import LabelledStream, UnpairedStream
from drdg.training.gan import train_translator
from drdg.training.journal import Journal
from drdg.training.preemption import INTERRUPTED, PATIENCE_S, SCHEDULERS, TRY_AGAIN, Stopped, StopRequest, listening
from drdg.training.segmentation import train_segmentor

Stores = tuple[ShardStore, ShardStore]
Curve = dict[int, dict[str, float]]
ALONE = Group(Topology(), torch.device("cpu"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_is_only_remembered_while_somebody_listens(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening() as asked:
        assert asked.number == 0
        os.kill(os.getpid(), number)
        assert asked.number == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = StopRequest()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    asked.remember(signal.SIGINT)
    asked.remember(signal.SIGINT)  # the same one, which a launcher has passed on
    now += PATIENCE_S * 1.01
    with pytest.raises(KeyboardInterrupt):
        asked.remember(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGUSR2, TRY_AGAIN, "SIGUSR2"), (signal.SIGINT, INTERRUPTED, "Ctrl-C")]
)
def test_only_the_first_rank_says_that_it_was_stopped_and_has_the_status(
    number: signal.Signals, status: int, name: str
) -> None:
    first, other = Stopped(number, "iteration 7"), Stopped(number, "iteration 7", is_first=False)
    assert str(first) == (
        f"stopped by {name} after iteration 7, which is saved; the same command continues where it was"
    )
    assert (first.status, first.said_elsewhere) == (status, False)
    assert (other.status, other.said_elsewhere) == (0, True)


def rates_apart(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not name.endswith(("per_s", "percent"))}


class Signalled:
    """A stream that sends this process a signal in the middle of an iteration."""

    def __init__(self, stream: Any, at: int | None):
        self.stream, self.at, self.seen = stream, at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def to_device(self, *arguments: Any) -> Any:
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.stream.to_device(*arguments)


def train(config: Config, stores: Stores, out: Path, curve: Curve, at: int | None = None) -> dict[str, torch.Tensor]:
    stream = Signalled(UnpairedStream(*stores, seed=0, need_dsm=True, dsm=config.dsm), at)

    def log(values: dict[str, float], step: int) -> None:
        assert step not in curve, "logged twice"
        curve[step] = rates_apart(values)

    path = train_translator("drdg", config, stream, out, ALONE, Journal(log), quiet=True)
    return load_file(path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_stopped_at_any_iteration_a_training_continues_bit_for_bit_with_the_same_curve(
    small: Callable[..., Config], two_domains: Stores, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = small("gan.iterations=11", "gan.checkpoint_every=4", "gan.log_every=3", "gan.n_critic=2")
    undisturbed: Curve = {}
    whole = train(config, two_domains, tmp_path_factory.mktemp("whole"), undisturbed)
    assert sorted(undisturbed) == [3, 6, 9, 11]

    @settings(max_examples=3, suppress_health_check=list(HealthCheck))
    @given(at=st.integers(1, 10))
    def stopped_at(at: int) -> None:
        out = tmp_path_factory.mktemp("stopped")
        curve: Curve = {}
        with pytest.raises(Stopped, match=f"SIGTERM after gan's iteration {at}, which is saved"):
            train(config, two_domains, out, curve, at)
        assert same(train(config, two_domains, out, curve), whole)
        assert curve == undisturbed

    stopped_at()


def test_a_signal_in_the_last_iteration_does_not_keep_a_training_from_its_end(
    small: Callable[..., Config], two_domains: Stores, tmp_path: Path
) -> None:
    train(small("gan.iterations=2"), two_domains, tmp_path, {}, at=2)
    assert (tmp_path / "translator.safetensors").exists()


def test_what_was_logged_is_written_before_the_checkpoint_that_does_not_log_it_again(
    small: Callable[..., Config], two_domains: Stores, tmp_path: Path
) -> None:
    config = small("gan.iterations=6", "gan.checkpoint_every=2", "gan.log_every=1")
    stream = UnpairedStream(*two_domains, seed=0, need_dsm=True, dsm=config.dsm)
    waiting: list[int] = []
    folder = tmp_path / "checkpoints"

    def flush() -> list[Any]:
        assert not (folder / f"step_{waiting[-1]:09d}.pt").exists()
        waiting.clear()
        return []

    def log(values: dict[str, float], step: int) -> None:
        waiting.append(step)

    train_translator("drdg", config, stream, tmp_path, ALONE, Journal(log, flush), quiet=True)
    assert waiting == []


def test_what_could_not_be_written_is_in_the_checkpoint_for_who_continues(
    small: Callable[..., Config], two_domains: Stores, tmp_path: Path
) -> None:
    config = small("gan.iterations=4", "gan.checkpoint_every=2", "gan.log_every=1")
    waiting: list[tuple[str, float, int, int]] = []

    def log(values: dict[str, float], step: int) -> None:
        waiting.extend((name, value, 1000 * step, step) for name, value in rates_apart(values).items())

    def train_until(at: int | None) -> None:
        stream = Signalled(UnpairedStream(*two_domains, seed=0, need_dsm=True, dsm=config.dsm), at)
        journal = Journal(log, flush=lambda: list(waiting), relog=waiting.extend)
        train_translator("drdg", config, stream, tmp_path, ALONE, journal, quiet=True)

    with pytest.raises(Stopped):
        train_until(3)
    before = list(waiting)
    waiting.clear()  # as by a store that is away and a process that ends
    train_until(None)
    assert waiting[: len(before)] == before
    assert {step for *_, step in waiting} == {1, 2, 3, 4}


def test_who_is_asked_before_the_first_iteration_makes_one_and_saves(
    small: Callable[..., Config], two_domains: Stores, tmp_path: Path
) -> None:
    config = small("gan.iterations=3")
    stream = UnpairedStream(*two_domains, seed=0, need_dsm=True, dsm=config.dsm)
    with listening(SCHEDULERS):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM after gan's iteration 1, which is saved"):
            train_translator("drdg", config, stream, tmp_path, ALONE, Journal(), quiet=True)


def test_the_segmentor_stops_and_continues_likewise(
    small: Callable[..., Config], two_domains: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("segmentation.iterations=7", "segmentation.log_every=2")
    to_device, seen = LabelledStream.to_device, []

    def signalled(stream: LabelledStream, *arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return to_device(stream, *arguments)

    def segment(folder: str, curve: Curve) -> dict[str, torch.Tensor]:
        def log(values: dict[str, float], step: int) -> None:
            curve[step] = rates_apart(values)

        place = Path(two_domains[0].name)
        path = train_segmentor(config, place, tmp_path / folder, journal=Journal(log), validate=None, quiet=True)
        return load_file(path)

    undisturbed: Curve = {}
    curve: Curve = {}
    at = 0
    whole = segment("whole", undisturbed)
    monkeypatch.setattr(LabelledStream, "to_device", signalled)
    at = 3
    with pytest.raises(Stopped, match="SIGUSR1 after segment's iteration 3, which is saved"):
        segment("stopped", curve)
    assert same(segment("stopped", curve), whole)
    assert curve == undisturbed


# ---------------------------------------------------------------------------------------------------------- three ranks


class Ended:
    """What a training by three ranks has left."""

    def __init__(self, out: Path, statuses: list[list[int]], words: list[str]):
        self.out, self.statuses, self.words = out, statuses, words
        path = out.with_suffix(".curve")
        lines = path.read_text().splitlines() if path.exists() else []
        self.curve = dict(map(json.loads, lines))
        path = out / "translator.safetensors"
        self.networks = load_file(path) if path.exists() else {}


HANG_S = 20  # more than an iteration takes on a machine with other work
JOBS = {"whole": [None], "stopped": ["USR2", None], "killed": ["KILL", None], "hung": ["hang"]}


@pytest.fixture(scope="module")
def ended(archives: Path, two_domains: Stores, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    """The trainings of ``JOBS``, each by as many starts as are named there, with what befalls rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    gan = ["iterations=11", "batch_size=3", "checkpoint_every=4", "log_every=3", "n_critic=2", "workers=0"]
    sides = ["source.tile=256", "source.stride=64", "target.tile=128", "target.stride=64"]
    narrow = ["generator.width=2", "critic.width=2", "distributed.threads=1", "distributed.timeout_s=60"]
    config = load_config(None, [*sides, *narrow, *(f"gan.{knob}" for knob in gan)])
    (folder / "config.yaml").write_text(to_yaml(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs, starts = [], []
    for name, befalls in JOBS.items():
        for what in befalls:
            starts.append(name)
            limit = [f"distributed.timeout_s={HANG_S}"] if what == "hang" else []
            jobs.append({"out": str(folder / name), "overrides": limit} | ({"befalls": what} if what else {}))
    plan = {"config": str(folder / "config.yaml"), "port": port, "jobs": jobs}
    plan |= {"source": str(two_domains[0].name), "target": str(two_domains[1].name)}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, Path(__file__).with_name("ranks.py"), folder / "plan.json"]
    quiet = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    statuses = list(map(json.loads, done.stdout.splitlines()))

    def of(name: str) -> Ended:
        own = [status for start, status in zip(starts, statuses, strict=True) if start == name]
        words = [(folder / name).with_suffix(f".{rank}.txt").read_text() for rank in (0, 1, 2)]
        return Ended(folder / name, own, words)

    return of


def test_ranks_stop_together_when_one_is_told_to_and_continue_bit_for_bit(ended: Callable[[str], Ended]) -> None:
    stopped, whole = ended("stopped"), ended("whole")
    assert whole.statuses == [[0, 0, 0]], whole.words
    assert stopped.statuses == [[TRY_AGAIN, 0, 0], [0, 0, 0]], stopped.words
    assert same(stopped.networks, whole.networks)
    assert stopped.curve == whole.curve
    assert stopped.words[1:] == ["", ""]
    said, went_on = stopped.words[0].splitlines()
    assert said.startswith("error: stopped by SIGUSR2 after gan's iteration 7, which is saved; the same command")
    assert went_on == "gan: continues from iteration 7"


def test_a_rank_that_is_killed_ends_the_others_with_one_sentence_and_nothing_is_lost(
    ended: Callable[[str], Ended],
) -> None:
    killed, whole = ended("killed"), ended("whole")
    assert killed.statuses == [[LOST_BUT_FURTHER, -signal.SIGKILL, LOST_BUT_FURTHER], [0, 0, 0]], killed.words
    words = "".join(killed.words).splitlines()
    words.remove("gan: continues from iteration 4")
    (said,) = words
    assert re.match(r"error: rank [02] has lost another rank, which has ended", said)
    assert said.endswith("; the same command continues from the checkpoint of iteration 4")
    assert same(killed.networks, whole.networks)
    assert killed.curve == whole.curve


def test_a_rank_that_hangs_writes_where_and_ends_all_within_the_timeout(ended: Callable[[str], Ended]) -> None:
    hung = ended("hung")
    assert hung.statuses == [[1, 1, 1]], hung.words
    for rank, words in enumerate(hung.words):
        stacks = hung.out / f"hangs/rank-{rank}.txt"
        assert words == (
            f"error: rank {rank} has not ended an iteration for {0.95 * HANG_S:.0f} s and ends; "
            f"where it hangs is in {stacks}; the same command continues from the checkpoint of iteration 4\n"
        )
    assert "in hang_here" in (hung.out / "hangs/rank-1.txt").read_text()
    assert "in hang_here" not in (hung.out / "hangs/rank-0.txt").read_text()
    assert "in iterate" in (hung.out / "hangs/rank-0.txt").read_text()
