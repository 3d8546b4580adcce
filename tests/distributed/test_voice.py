"""What stops all ranks is said by one of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from drdg.config import Config, load_config, to_yaml
from drdg.distributed.group import process_group
from drdg.distributed.lost import RankLost
from drdg.distributed.topology import Topology
from drdg.distributed.voice import once_per_node, once_per_run
from drdg.shards.build import build_shards

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store() -> dist.Store:
    return dist.HashStore()


def raised(errors: list[Exception], store: dist.Store) -> list[bool]:
    """Whether each of as many ranks is to say its error."""
    says: list[bool] = [False] * len(errors)

    def be_rank(rank: int) -> None:
        try:
            with once_per_run(store, Topology(rank, len(errors))):
                raise errors[rank]
        except Exception as error:
            says[rank] = not error.said_elsewhere  # type: ignore[attr-defined]

    ranks = [threading.Thread(target=be_rank, args=(rank,)) for rank in range(len(errors))]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return says


def test_of_one_sentence_on_all_ranks_one_is_said(store: dist.Store) -> None:
    assert sum(raised([ValueError("gan.batch_size=3") for _ in range(5)], store)) == 1


def test_of_a_lost_rank_one_tale_is_told(store: dist.Store) -> None:
    assert sum(raised([RankLost(f"rank {rank} has lost another") for rank in range(3)], store)) == 1


def test_different_sentences_are_all_said(store: dist.Store) -> None:
    errors = [ValueError("a"), ValueError("b"), OSError("a"), ValueError("a")]
    says = raised(list(errors), store)
    assert says[1:3] == [True, True]
    assert says[0] != says[3]


def test_where_the_store_is_gone_each_says_its_own() -> None:
    class Gone:
        def add(self, key: str, number: int) -> int:
            raise dist.DistNetworkError("connection reset by peer")

    assert raised([ValueError("a"), ValueError("a")], Gone()) == [True, True]  # type: ignore[arg-type]


def test_what_is_settled_stays() -> None:
    error = ValueError("a")
    error.said_elsewhere = True  # type: ignore[attr-defined]
    assert raised([error], dist.HashStore()) == [False]


@pytest.mark.parametrize(("local_rank", "is_silent"), [("0", False), ("1", True)])
def test_before_ranks_have_met_the_first_of_a_node_speaks(
    local_rank: str, is_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ValueError, match="a") as caught, once_per_node():
        raise ValueError("a")
    assert caught.value.said_elsewhere is is_silent  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["gan.n_critc=2"], "gan.n_critc"),  # before they meet
        (["distributed.backend=ddp", "gan.batch_size=3"], "gan.batch_size=3 pairs cannot be shared by 2 ranks"),
    ],
)
def test_ranks_that_cannot_begin_say_so_once(
    overrides: list[str], said: str, small: Callable[..., Config], tmp_path: Path
) -> None:
    config = small()
    build_shards(config.source, config.shards, need_label=True)
    build_shards(config.target, config.shards, need_label=False)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in "01":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        variables = os.environ | place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "launch/train.py", "--config", str(path), *overrides]
        ranks.append(subprocess.Popen(command, env=variables, cwd=ROOT, text=True, stderr=subprocess.PIPE))
    words = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], words
    (line,) = "".join(words).splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize(
    ("master", "said"),
    [
        ("no-such-host.invalid", "rank 1 cannot resolve the master's name in no-such-host.invalid:"),
        ("127.0.0.1", "rank 1 of 2 has not met the others at 127.0.0.1:"),
    ],
)
def test_ranks_that_do_not_meet_say_where(master: str, said: str) -> None:
    with socket.socket() as nobodys:
        nobodys.bind(("127.0.0.1", 0))
        place = Topology(1, 2, 1, 2, master, nobodys.getsockname()[1], "srun", "1.0.0")
        settings = load_config(None, ["distributed.timeout_s=1", "distributed.device=cpu"]).distributed
        with pytest.raises((ValueError, ConnectionError)) as caught, process_group(settings, place):
            pass
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
