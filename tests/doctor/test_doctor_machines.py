"""What differs between machines: software, names, interfaces, clocks, file systems."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patients import answers_of, said

from drdg.doctor import clocks, interfaces, names, software
from drdg.doctor.answers import Rank
from drdg.doctor.context import Context
from drdg.doctor.mounts import is_network, kind, kind_among

Contexts = Callable[..., Context]
VERSIONS = dict.fromkeys((*software.MUST_MATCH, *software.SHOULD_MATCH), "1")


# ------------------------------------------------------------------------------------------------------------ software


def test_the_same_software_everywhere_is_ok(context: Contexts) -> None:
    found = software.judge(context().config, answers_of({}, {}, versions=VERSIONS, torch_s=2.0))
    assert [finding.level for finding in found] == ["ok"]
    assert "torch 1, deepspeed 1, mpi4py 1, the same on all ranks; import torch at most 2.0 s" in found[0].measured


@pytest.mark.parametrize(("name", "level"), [("torch", "bad"), ("its code", "bad"), ("mlflow", "warning")])
def test_software_that_differs_is_named_with_its_ranks(context: Contexts, name: str, level: str) -> None:
    other = {"versions": VERSIONS | {name: "2"}}
    found = software.judge(context().config, answers_of({}, other, {}, versions=VERSIONS, torch_s=2.0))
    assert said(found) == [f"{level} software: {name} differs: 1 for ranks 0, 2 on node1, node3; 2 for rank 1 on node2"]


def test_deepspeed_that_is_asked_for_must_be_there_and_equal(context: Contexts) -> None:
    config = context("distributed.backend=deepspeed").config
    without = {"versions": VERSIONS | {"deepspeed": software.ABSENT}}
    levels = said(software.judge(config, answers_of({}, without, versions=VERSIONS, torch_s=2.0)))
    assert levels == [
        "bad software: deepspeed differs: 1 for rank 0 on node1; none for rank 1 on node2",
        "bad software: distributed.backend=deepspeed, but it is not installed for rank 1 on node2",
    ]


def test_a_disk_from_which_torch_loads_slowly_is_a_warning(context: Contexts) -> None:
    slow = {"torch_s": 95.0}
    (found,) = software.judge(context().config, answers_of({"torch_s": 3.0}, slow, versions=VERSIONS))
    assert said([found]) == ["warning software: import torch took 95 s for rank 1 on node2"]


def test_this_software_is_found(context: Contexts) -> None:
    import torch

    found = software.probe(context())
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["versions"]) == set(VERSIONS)
    assert len(software.code()) == 8
    assert software.release("no-such-package-as-this") == software.ABSENT


# --------------------------------------------------------------------------------------------------------------- names


def resolved(own: str, errors: dict[str, str] | None = None, **changed: list[str]) -> dict[str, Any]:
    addresses = {"node1": ["10.0.0.1"], "node2": ["10.0.0.2"]} | changed
    for name in errors or {}:
        addresses.pop(name, None)
    return {"own": own, "addresses": addresses, "errors": errors or {}, "slowest": ("node1", 0.001)}


def test_names_that_mean_the_same_addresses_are_ok() -> None:
    found = names.judge(answers_of(resolved("node1"), resolved("node2")), "node1")
    assert said(found) == ["ok host names: 2 resolved by every node, slowest 1 ms"]


def test_a_master_that_a_node_cannot_resolve_is_bad_and_another_name_a_warning() -> None:
    unknown = "Name or service not known"
    lost = resolved("node2", {"node1": unknown})
    found = names.judge(answers_of(resolved("node1", {"node2": unknown}), lost), "node1")
    assert sorted(said(found)) == [
        f"bad host names: rank 1 on node2 cannot resolve node1 ({unknown})",
        f"warning host names: rank 0 on node1 cannot resolve node2 ({unknown})",
    ]


def test_an_own_name_that_means_loopback_is_bad_between_nodes_alone() -> None:
    debian = resolved("node1", node1=["127.0.1.1"])
    (found,) = names.judge(answers_of(debian, resolved("node2")), "node1")
    assert said([found]) == ["bad host names: the own name means 127.0.1.1 for rank 0 on node1"]
    assert names.judge(answers_of(debian), "node1")[0].level == "ok"


def test_a_master_called_localhost_is_bad_between_nodes() -> None:
    here = {"localhost": ["127.0.0.1", "::1"]}
    found = names.judge(answers_of(resolved("node1", **here), resolved("node2", **here)), "localhost")
    assert said(found) == ["bad host names: the master localhost means the own node for ranks 0-1 on node1, node2"]


def test_a_slow_name_server_is_a_warning() -> None:
    slow = resolved("node2") | {"slowest": ("node1", 5.0)}
    (found,) = names.judge(answers_of(resolved("node1"), slow), "node1")
    assert said([found]) == ["warning host names: rank 1 on node2 takes 5.0 s to resolve node1"]


def test_names_are_really_resolved(context: Contexts) -> None:
    found = names.probe(context(master_address="localhost"), ["no-such-host.invalid"])
    assert names.is_loopback(found["addresses"]["localhost"])
    assert list(found["errors"]) == ["no-such-host.invalid"]


# ---------------------------------------------------------------------------------------------------------- interfaces

KNOWN = {
    "lo": {"up": True, "addresses": ["127.0.0.1"], "speed_mbit": 0},
    "docker0": {"up": True, "addresses": ["172.17.0.1"], "speed_mbit": 0},
    "eth0": {"up": True, "addresses": ["10.0.0.1"], "speed_mbit": 10000},
    "eth1": {"up": False, "addresses": [], "speed_mbit": 0},
    "ib0": {"up": True, "addresses": ["10.1.0.1"], "speed_mbit": 200000},
}


def asked(gloo: str | None = None, nccl: str | None = None, own: str = "10.0.0.1") -> dict[str, Any]:
    return {"interfaces": KNOWN, "own": [own], interfaces.GLOO: gloo, interfaces.NCCL: nccl}


@pytest.mark.parametrize(
    ("value", "backend", "choice"),
    [
        (asked(), "gloo", ("eth0",)),
        (asked(own="127.0.1.1"), "gloo", ("lo",)),
        (asked(gloo="ib0"), "gloo", ("ib0",)),
        (asked(), "nccl", ("ib0",)),
        (asked(nccl="eth"), "nccl", ("eth0",)),
        (asked(nccl="^ib,docker,lo"), "nccl", ("eth0",)),
        (asked(nccl="=ib0"), "nccl", ("ib0",)),
        (asked(nccl="=ib"), "nccl", ()),
        (asked() | {"interfaces": {name: KNOWN[name] for name in ("lo", "docker0")}}, "nccl", ("lo", "docker0")),
    ],
)
def test_the_interface_is_taken_that_gloo_and_nccl_take(value: dict[str, Any], backend: str, choice: Any) -> None:
    assert interfaces.taken(value, backend) == choice


@pytest.mark.parametrize(
    ("value", "variable", "reason"),
    [
        (asked(), interfaces.GLOO, ""),
        (asked(gloo="eth0,ib0"), interfaces.GLOO, ""),
        (asked(gloo="eth9"), interfaces.GLOO, "eth9: there is no such interface"),
        (asked(gloo="eth0,eth9"), interfaces.GLOO, "eth0,eth9: there is no such interface"),
        (asked(gloo="eth1"), interfaces.GLOO, "eth1: eth1 is down"),
        (asked(nccl="mlx"), interfaces.NCCL, "mlx: there is no such interface"),
        (asked(nccl="eth1"), interfaces.NCCL, "eth1: eth1 is down"),
        (asked(nccl="eth"), interfaces.NCCL, ""),
    ],
)
def test_an_interface_that_is_not_there_or_down_is_found(value: dict[str, Any], variable: str, reason: str) -> None:
    assert interfaces.fault(value, variable) == reason


def test_a_wrong_interface_is_bad_for_who_uses_it_and_loopback_is_between_nodes() -> None:
    (found,) = interfaces.judge(answers_of(asked(gloo="eth9"), asked()), "gloo")
    assert said([found]) == ["bad interface: GLOO_SOCKET_IFNAME=eth9: there is no such interface for rank 0 on node1"]
    assert interfaces.judge(answers_of(asked(nccl="eth9")), "gloo")[0].level == "warning"
    lost = asked(own="127.0.1.1")
    assert said(interfaces.judge(answers_of(lost, lost), "gloo")) == [
        "bad interface: gloo would take lo, which leads nowhere, for ranks 0-1 on node1, node2"
    ]
    assert said(interfaces.judge(answers_of(asked()), "gloo")) == [
        "ok interface: gloo takes eth0 (10.0.0.1, 10 Gbit/s)"
    ]


def test_this_machines_interfaces_are_found(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interfaces.GLOO, "lo")
    found = interfaces.probe(context())
    assert "127.0.0.1" in found["interfaces"]["lo"]["addresses"]
    assert interfaces.taken(found, "gloo") == ("lo",)


# -------------------------------------------------------------------------------------------------------------- clocks


@given(st.floats(-1e4, 1e4), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=8, max_size=8))
def test_an_offset_is_known_to_within_its_uncertainty(ahead: float, ways: list[tuple[float, float]]) -> None:
    true = [0.0]
    journeys = iter(ways)

    def ask() -> float:
        there, back = next(journeys)
        true[0] += there
        answer = true[0] + ahead
        true[0] += back
        return answer

    offset = clocks.measure(Rank(1, "node2"), ask, lambda: true[0])
    assert offset is not None
    assert abs(offset.ahead_s - ahead) <= offset.within_s + 1e-6
    assert offset.within_s <= min(there + back for there, back in ways) / 2 + 1e-9


def test_clocks_more_than_a_second_apart_are_a_warning() -> None:
    one, other = Rank(1, "node2"), Rank(2, "node3")
    near = clocks.judge([clocks.Offset(one, 0.3, 0.001), clocks.Offset(other, -0.7, 0.001)])
    assert said(near) == ["ok clocks: farthest off: rank 2 on node3, 700 ms (to 1 ms) behind rank 0"]
    (far,) = clocks.judge([clocks.Offset(one, 2.5, 0.001)])
    assert said([far]) == ["warning clocks: the clock of rank 1 on node2 is 2.5 s (to 1 ms) ahead of rank 0"]
    assert clocks.judge([clocks.Offset(one, 2.5, 2.0)])[0].level == "ok"  # that it is apart is not known
    assert clocks.judge([]) == []


def test_a_rank_that_does_not_tell_its_time_has_no_offset() -> None:
    assert clocks.measure(Rank(1, "node2"), lambda: None) is None


# -------------------------------------------------------------------------------------------------------- file systems


def test_the_longest_mount_point_says_the_file_system() -> None:
    mounts = [("/", "ext4"), ("/data", "nfs4"), ("/data/fast", "lustre"), ("/da", "xfs"), ("/data", "ceph")]
    assert kind_among(Path("/data/fast/runs"), mounts) == "lustre"
    assert kind_among(Path("/data/faster"), mounts) == "ceph"  # the one that was mounted over the other
    assert kind_among(Path("/home"), mounts) == "ext4"
    assert is_network("nfs4")
    assert is_network("fuse.sshfs")
    assert not is_network("ext4")


def test_this_machines_file_systems_are_found() -> None:
    assert kind(Path("/proc/self")) == "proc"


def test_a_host_has_a_name(context: Contexts) -> None:
    assert context().host == socket.gethostname()
