"""The parts of ``scaling``: once for real, with two ranks and tiny networks, and by answers that tests make up."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drdg.bench.result import Comparison
from drdg.bench.scaling import Bench, measure_scaling, prepare
from drdg.bench.scaling_ranks import Ranks
from drdg.bench.scaling_sent import Owned
from drdg.bench.scaling_sizes import FULL, PARTS, QUICK, ScalingSizes
from drdg.config import Config, load_config

REPOSITORY = Path(__file__).parents[2]
TINY = ScalingSizes(width=2, source_tile=256, target_tile=128, checkpoints=1, own_width=4)
KEYS = {"name", "ours", "peer", "unit", "ratio", "goal", "met"}
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="ranks have a core each, and there is one core")


def configured(*overrides: str) -> Config:
    return load_config(None, [f"distributed.deepspeed={REPOSITORY / 'configs/deepspeed/zero1.json'}", *overrides])


@two_cores
def test_all_parts_measure_and_leave_nothing_behind(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    comparisons = measure_scaling(configured("gan.n_critic=2"), TINY, 1, PARTS, root=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
    assert os.sched_getaffinity(0) == cores
    rows = [comparison.row() for comparison in comparisons]
    assert all(row.keys() == KEYS for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)
    assert [row["goal"] for row in rows] == [
        *(0.9, None),  # weak
        *(1.15, 1.15, 1.15),  # DeepSpeed
        *(0.0, 0.0, None),  # bytes by DDP: gradients, frozen, wire
        *(0.0, 0.0),  # ZeRO 0: gradients, frozen
        *(0.0, 0.0, 0.0) * 2,  # ZeRO 1 and 2: gradients, weights, frozen
        *(None, None),  # overlap
        *(0.05, None, None),  # checkpoint
    ]
    sent = [row for row in rows if row["goal"] == 0]
    # Not when it was, but what was sent is the same on any machine.
    assert [row["met"] for row in sent] == [True] * 10
    assert {row["peer"] for row in sent if "gradients given" in row["name"]} == {expected_gradients(TINY.width, 2)}
    wire = rows[7]
    # Beside gradients, the kernel sends gloo's heads, losses and questions: little, and never less than the ring needs.
    assert 1 <= wire["ratio"] < 1.5
    for row in rows[-5:-3]:
        assert 0 < row["ratio"] < 1  # gradients are ready within a part of their phase
    assert 0 < rows[-3]["ours"] < rows[-3]["peer"]


def expected_gradients(width: int, n_critic: int) -> float:
    """Bytes of an iteration, from the networks' weights layer by layer (paper, section II-C; see models/)."""
    encoder = [3, *(multiple * width for multiple in (1, 2, 4, 8, 8, 8, 8))]
    down = sum(16 * inputs * outputs for inputs, outputs in itertools.pairwise(encoder))
    down += sum(2 * outputs for outputs in encoder[2:7])  # instance norms
    up, inputs = 0, encoder[7]
    for outputs, skip in zip((8, 8, 8, 4, 2, 1), reversed(encoder[1:7]), strict=True):
        up += 16 * inputs * outputs * width + 2 * outputs * width
        inputs = outputs * width + skip
    heads = (16 * inputs * 3 + 3) + (16 * inputs + 1)
    critic_widths = [3, *(multiple * width for multiple in (1, 2, 4, 8, 8))]
    critic = sum(16 * inputs * outputs for inputs, outputs in itertools.pairwise(critic_widths))
    critic += critic_widths[1] + sum(2 * outputs for outputs in critic_widths[2:]) + 16 * critic_widths[-1] + 1
    return 4 * 2 * (critic + (down + 2 * up + heads) / n_critic)


@two_cores
def test_a_rank_says_why_it_cannot_and_the_bench_says_which_has_ended(tmp_path: Path) -> None:
    place = prepare(configured(), TINY, ("ddp",), tmp_path)
    with Ranks(place) as ranks:
        assert ranks.ask("owned", "ddp", of=(1,))[0]["critic"].every == 1
        os.kill(ranks._processes[1][0].pid or 0, signal.SIGKILL)
        with pytest.raises(ValueError, match="rank 1 of the bench has ended; it was to answer: owned"):
            ranks.ask("owned", "ddp", of=(1,))
    missing = prepare(configured(f"distributed.deepspeed={tmp_path}/none.json"), TINY, ("zero1",), tmp_path / "other")
    with pytest.raises(ValueError, match=r"rank \d of the bench: .*zero1\.json: no such file"), Ranks(missing) as ranks:
        ranks.ask("owned", "zero1")


class Told(Ranks):
    """Ranks that answer what a test says."""

    def __init__(self, answers: dict[tuple[str, ...], Any]):
        self.answers = answers

    def ask(self, what: str, *arguments: Any, of: Sequence[int] = (0, 1)) -> list[Any]:
        words = (what, *(argument for argument in arguments if isinstance(argument, str)))
        return [self.answers[(*words, f"of {len(of)}")]] * len(of)


def bench(answers: dict[tuple[str, ...], Any], *overrides: str) -> Bench:
    return Bench(configured(*overrides), TINY, 3, Told(answers))


def test_weak_scaling_is_pairs_of_two_beside_twice_those_of_one() -> None:
    times = {("train", "alone", "of 1"): 2.0, ("train", "alone", "of 2"): 2.25, ("train", "ddp", "of 2"): 2.5}
    alone, apart = bench(times).measure(["weak"])
    assert (alone.ours.median, alone.peer.median) == (2 * 5 / 2.5, 5 / 2.0)
    assert alone.ratio == pytest.approx(0.8)
    assert alone.met is False
    assert apart.ratio == pytest.approx(2.25 / 2.5)
    times[("train", "ddp", "of 2")] = 2.0
    assert bench(times).measure(["weak"])[0].met is True


def test_deepspeed_is_seconds_of_an_iteration_beside_ddps() -> None:
    times = {
        ("train", side, "of 2"): seconds
        for side, seconds in (("ddp", 10.0), ("zero0", 9.0), ("zero1", 11.0), ("zero2", 12.0))
    }
    found = bench(times).measure(["deepspeed"])
    assert [comparison.ratio for comparison in found] == pytest.approx([0.9, 1.1, 1.2])
    assert [comparison.met for comparison in found] == [True, True, False]
    assert found[0].peer.median == 2  # of five


CRITICS, GENERATORS = Owned(100, 4, every=1), Owned(1000, 4, every=5)


def sent(side: str, owned: dict[str, Owned], **changed: Any) -> list[Comparison]:
    """What is found for ranks that have sent just what five iterations need, but for what is ``changed``."""
    rank = {
        "gradients": {"critic": 5 * 400, "generator": 4000},
        "weights": {"critic": 5 * 200, "generator": 2000},
        "frozen": 0,
        "wire": 6100,
    }
    return bench({})._sent(side, owned, [rank, rank | changed])


@pytest.mark.parametrize("side", ["ddp", "zero0", "zero1", "zero2"])
def test_bytes_that_are_as_they_have_to_be(side: str) -> None:
    found = sent(side, {"critic": CRITICS, "generator": GENERATORS})
    assert all(comparison.met is not False for comparison in found)
    assert found[0].ours.median == found[0].peer.median == 6000 / 5
    assert len(found) == (2 if side == "zero0" else 3)


@pytest.mark.parametrize(
    ("side", "owned", "changed", "missed"),
    [
        ("ddp", {"critic": Owned(101, 4, 1)}, {}, 0),  # a formula that has one weight too many
        ("ddp", {"critic": Owned(100, 4, 5)}, {}, 0),  # or another clock
        ("ddp", {"critic": Owned(100, 2, 1)}, {}, 0),  # or another type
        (
            "ddp",
            {},
            {"gradients": {"critic": 5 * 400, "generator": 4000 + 400}},
            0,
        ),  # a rank sends the critics' as well
        ("ddp", {}, {"gradients": {"critic": 5 * 400, "generator": 4000 + 400}}, 1),
        ("ddp", {}, {"gradients": {"critic": 5 * 400 - 4, "generator": 4000}}, 0),
        ("zero2", {}, {"frozen": 4}, 2),  # a frozen network's gradient is computed and not sent
        ("zero1", {}, {"weights": {"critic": 5 * 200, "generator": 4000}}, 1),  # weights go twice
    ],
)
def test_bytes_that_are_not_miss_the_goal(
    side: str, owned: dict[str, Owned], changed: dict[str, Any], missed: int
) -> None:
    found = sent(side, {"critic": CRITICS, "generator": GENERATORS} | owned, **changed)
    assert found[missed].met is False


def test_a_standstill_is_beside_the_configurations_interval() -> None:
    answers = {
        ("train", "ddp", "of 2"): 10.0,  # five iterations
        ("go_on", "ddp", "of 2"): None,
        ("checkpoint", "ddp", "of 2"): (30.0, 90.0),
        ("make_own", "of 1"): 2_500_000,
        ("go_on", "own", "of 1"): None,
        ("checkpoint", "own", "of 1"): (2.0, 8.0),
    }
    standstill, write, own = bench(answers, "gan.checkpoint_every=300").measure(["checkpoint"])
    assert (standstill.ours.median, standstill.peer.median) == (30, 600)
    assert standstill.met is True
    assert bench(answers, "gan.checkpoint_every=299").measure(["checkpoint"])[0].met is False
    assert (write.ratio, own.ratio) == (3, 4)
    assert "2.5 million weights" in own.name


def test_the_full_size_has_ranks_of_more_than_one_tile() -> None:
    for sizes in (FULL, QUICK):
        assert sizes.side // sizes.source_tile >= 2
        assert sizes.source_tile % 128 == sizes.target_tile % 128 == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scaling", "--only", "stream"], "--only stream: is no part of scaling; take weak, deepspeed"),
        (["data", "--only", "weak"], "--only weak: is no part of data; take stream"),
        (["scaling", "--real"], "--real is for data, not for scaling; leave it out"),
        (["scaling", "--nodes", "2"], "--nodes is for cost, not for scaling; leave it out"),
        (["cost", "--quick"], "--quick is for data and scaling and tracking and predict, not for cost; leave it out"),
        (["cost", "--nodes", "0"], "argument --nodes: 0 is too few"),
        (["cost", "--tflops", "0"], "0 is not above 0"),
        (["cost", "--nic-gbit", "nan"], "nan is no number of 0 or more"),
    ],
)
def test_bad_arguments_end_with_a_sentence(arguments: list[str], words: str) -> None:
    command = [sys.executable, "launch/bench.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_says_what_and_loads_no_torch(tmp_path: Path) -> None:
    arguments = ["x", "scaling", "--dry-run", "--only", "bytes", "weak", "--root", str(tmp_path / "there")]
    look = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    code = f"{look}; sys.argv = {arguments!r}; import runpy; runpy.run_path('launch/bench.py', run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    said, loaded = done.stdout.splitlines()
    assert said.startswith("scaling: weak, bytes; 5 interleaved runs of each side; 2 ranks of one core each")
    assert str(tmp_path / "there") in said
    assert loaded == "False"


@two_cores
def test_results_alone_are_on_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "launch/bench.py", "scaling", "--quick", "--json", "--only", "overlap"]
    command += ["--root", str(tmp_path), "gan.n_critic=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert [row.keys() == KEYS for row in json.loads(done.stdout)] == [True, True]
    assert "| seconds over which the critics' gradients become ready" in done.stderr
    assert "Warning" not in done.stderr
