"""Rank 0 and the others, in one process: greetings, strangers, and ranks that end, hang or never come."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from patients import free_port

from drdg.distributed.topology import Topology
from drdg.doctor import meeting, steps
from drdg.doctor.answers import Rank
from drdg.doctor.context import Context
from drdg.doctor.desk import Desk
from drdg.doctor.examination import silent
from drdg.doctor.guest import attend, find
from drdg.doctor.steps import Step, perform
from drdg.doctor.timed import within
from drdg.doctor.wire import Wire

Contexts = Callable[..., Context]


@contextmanager
def guests(contexts: list[Context], seconds: float = 5.0) -> Iterator[list[BaseException | None]]:
    """Other ranks, each in a thread; gives what each ended with."""
    ends: list[BaseException | None] = [None] * len(contexts)

    def live(number: int) -> None:
        try:
            attend(contexts[number], seconds)
        except OSError as error:
            ends[number] = error

    threads = [threading.Thread(target=live, args=(number,), daemon=True) for number in range(len(contexts))]
    for thread in threads:
        thread.start()
    yield ends
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def places(context: Contexts) -> Callable[..., list[Context]]:
    """The contexts of all ranks of a start on this machine."""

    def make(world_size: int, timeout: float = 5.0, port: int | None = None, launcher: str = "srun") -> list[Context]:
        port = port or free_port()
        place = {"world_size": world_size, "master_address": "127.0.0.1", "master_port": port, "launcher": launcher}
        return [context(timeout=timeout, rank=rank, **place) for rank in range(world_size)]

    return make


Places = Callable[..., list[Context]]


def test_all_ranks_come_and_answer(places: Places) -> None:
    first, *others = places(3)
    desk = Desk(first)
    with guests(others) as ends:
        desk.wait_for_all(10)
        assert desk.missing == []
        times = desk.ask("clock")
        only = desk.ask("clock", [desk.arrived[2]])
        desk.close()
    assert ends == [None, None]
    assert [answer.who.number for answer in times] == [0, 1, 2]
    assert [answer.who.number for answer in only] == [2]
    assert all(abs(answer.value["time_s"] - time.time()) < 60 for answer in times)
    assert desk.port_taken == ""
    assert {greeting["tries"] for greeting in desk.came.values()} != set()


def test_a_taken_port_is_noted_and_the_next_one_used(places: Places) -> None:
    with socket.create_server(("", 0)) as taken:
        first, other = places(2, port=taken.getsockname()[1])
        desk = Desk(first)
        with guests([other], seconds=15):
            desk.wait_for_all(15)
            assert desk.missing == []
            desk.close()
    assert desk.port_taken == "Address already in use"


def test_torchruns_port_is_left_to_its_agent(places: Places) -> None:
    contexts = places(2, launcher="torchrun")
    port = contexts[0].topology.master_port or 0
    assert meeting.candidates(contexts[0].topology)[0] == port + 1
    assert len(meeting.candidates(Topology(master_port=65534))) == 2


def test_a_start_without_a_free_port_says_so(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SPARE_PORTS", 1)
    with socket.create_server(("", 0)) as taken:
        first, _ = places(2, port=taken.getsockname()[1])
        with pytest.raises(OSError, match=r"can listen at none of the ports .* \(Address already in use\)"):
            Desk(first).wait_for_all(1)


def test_a_rank_that_never_comes_is_missing_and_is_not_waited_for_again(places: Places) -> None:
    first, *_ = places(2)
    desk = Desk(first)
    desk.wait_for_all(0.5)
    assert desk.missing == [1]
    assert [answer.who.number for answer in desk.ask("clock")] == [0]


def greet(port: int, **message: Any) -> dict[str, Any]:
    wire = Wire(socket.create_connection(("127.0.0.1", port), timeout=5))
    standard = {"to": meeting.GREETING, "rank": 1, "world": 3, "host": "h", "local": 1, "local_size": 3}
    wire.send({**standard, **message}, 5)
    return wire.receive(5)


def test_strangers_are_refused_and_named(places: Places) -> None:
    first, *_ = places(3)
    port = first.topology.master_port or 0
    desk = Desk(first)
    waiting = threading.Thread(target=desk.wait_for_all, args=(6,))
    waiting.start()
    time.sleep(0.5)
    with socket.create_connection(("127.0.0.1", port)) as scanner:
        scanner.sendall(b"GET / HTTP/1.0\r\n\r\n")  # no greeting, and no reason to stop
    assert "refused" in greet(port, world=8)
    assert "refused" in greet(port, rank=0)
    assert "refused" in greet(port, to="somebody")
    assert greet(port) == {"welcome": True}
    assert "which had come from h" in greet(port, host="i")["refused"]
    assert greet(port, rank=2) == {"welcome": True}
    waiting.join()
    desk.close()
    assert desk.strangers == [
        "h sent rank 1 of 8, while rank 0 is one of 3",
        "h sent rank 0, which cannot be beside rank 0 of 3",
        "somebody else asked something",
        "i sent rank 1, which had come from h",
    ]


def test_a_rank_that_ends_and_one_that_hangs_are_named_and_asked_no_more(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drdg.doctor.desk.GRACE_S", 0.2)
    first, *_ = places(3, timeout=1.0)
    port = first.topology.master_port or 0
    desk = Desk(first)
    waiting = threading.Thread(target=desk.wait_for_all, args=(10,))
    waiting.start()
    wires = []
    for rank in (1, 2):
        time.sleep(0.3)
        wires.append(Wire(socket.create_connection(("127.0.0.1", port), timeout=5)))
        place = {"to": meeting.GREETING, "rank": rank, "world": 3, "host": f"node{rank}", "local": 0, "local_size": 1}
        wires[-1].send(place, 5)
        assert wires[-1].receive(5) == {"welcome": True}
    waiting.join()
    wires[0].close()
    assert [answer.who.number for answer in desk.ask("clock")] == [0]
    assert desk.ranks == [first.rank]
    found = silent(desk.silences)
    measured = sorted(finding.measured for finding in found)
    assert measured[0].startswith("rank 1 on node1: has ended or cannot be reached any more")
    assert measured[1] == "rank 2 on node2: does not answer any more"
    desk.silences.clear()
    assert [answer.who.number for answer in desk.ask("clock")] == [0]
    assert desk.silences == []
    desk.close()
    wires[1].close()


def test_a_probe_that_hangs_or_fails_costs_its_own_answer_alone(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(context: Context) -> dict[str, Any]:
        raise RuntimeError("[enforce fail at /x/gloo/device.cc:84] ifa != nullptr. Unable to find it\nand more")

    let_go = threading.Event()
    monkeypatch.setitem(steps.STEPS, "hangs", Step("x", lambda context: {"a": let_go.wait(30)}, "mend the disk"))
    monkeypatch.setitem(steps.STEPS, "fails", Step("y", fails, "mend it"))
    first, other = places(2, timeout=0.5)
    desk = Desk(first)
    with guests([other]):
        desk.wait_for_all(10)
        assert desk.ask("hangs") == []
        assert desk.ask("fails") == []
        assert [answer.who.number for answer in desk.ask("clock")] == [0, 1]
        desk.close()
    let_go.set()
    found = silent(desk.silences)
    assert [(finding.check, finding.cure) for finding in found] == [("x", "mend the disk"), ("y", steps.FOREIGN)]
    assert found[0].measured.startswith("ranks 0-1 on ")
    assert found[0].measured.endswith(": not done within 0 s")
    assert found[1].measured.endswith(": RuntimeError: Unable to find it")


def test_a_late_answer_is_not_taken_for_the_next(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = places(2, timeout=1.0)
    desk = Desk(first)
    waiting = threading.Thread(target=desk.wait_for_all, args=(10,))
    waiting.start()
    time.sleep(0.3)
    wire = Wire(socket.create_connection(("127.0.0.1", first.topology.master_port or 0), timeout=5))
    wire.send({"to": meeting.GREETING, "rank": 1, "world": 2, "host": "h", "local": 0, "local_size": 1}, 5)
    assert wire.receive(5) == {"welcome": True}
    waiting.join()
    for number, value in ((0, "old"), (1, "new")):
        wire.send({"number": number, "value": {"time_s": value}}, 5)
    assert [answer.value["time_s"] for answer in desk.ask("clock", [Rank(1, "h")])] == ["new"]
    desk.close()
    wire.close()


def test_a_rank_that_cannot_come_leaves_a_note_and_takes_it_away(places: Places) -> None:
    first, other = places(2, timeout=0.2)
    with guests([other], seconds=1) as ends:
        pass  # rank 0 is not there to take it
    assert f"rank 1 on {other.host} cannot reach rank 0 at 127.0.0.1:" in str(ends[0])
    assert "(Connection refused)" in str(ends[0])
    assert not list(first.root.glob(".drdg*"))


def test_a_note_that_rank_0_takes_leaves_the_failing_to_it(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = places(2, timeout=0.2)
    seen: dict[int, tuple[str, str]] = {}
    with guests([other], seconds=1) as ends:
        time.sleep(1.5)  # that rank has given up by now
        seen = meeting.take_notes(first, [1])
    assert seen == {1: (other.host, "Connection refused")}
    assert ends == [None]
    assert "cannot reach rank 0" in capsys.readouterr().err
    assert not list(first.root.glob(".drdg*"))


def test_a_firewall_is_told_from_a_port_where_nobody_listens(places: Places) -> None:
    """A listener whose queue is full lets no packet through, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        callers = []
        for _ in range(4):
            callers.append(socket.socket())
            callers[-1].setblocking(False)
            callers[-1].connect_ex(full.getsockname())
        other = places(2, timeout=1.0, port=full.getsockname()[1])[1]
        # Were each port waited for, there would be no time to say why.
        with pytest.raises(OSError, match=r"cannot reach rank 0 at 127.0.0.1:\d+ \(timed out\)"):
            attend(other, 2)
        for caller in callers:
            caller.close()


def test_an_old_or_torn_note_is_nobodys(places: Places) -> None:
    first, other = places(2)
    meeting.leave_note(other, "timed out")
    path = meeting.note_path(first, 1)
    note = json.loads(path.read_text())
    path.write_text(json.dumps(note | {"time_s": note["time_s"] - 2 * meeting.OLD_NOTE_S}))
    assert meeting.take_notes(first, [1, 5]) == {}
    path.write_text("{")
    assert meeting.take_notes(first, [1]) == {}
    meeting.remove_note(other)
    assert not path.exists()


def test_a_master_that_has_no_address_is_said(context: Contexts) -> None:
    lost = context(rank=1, world_size=2, master_address="no-such-host.invalid", master_port=23456, timeout=0.2)
    with pytest.raises(OSError, match=r"cannot reach rank 0 at no-such-host.invalid:23456 \((?!Unknown error)"):
        find(lost, 1)


def test_a_rank_that_loses_rank_0_says_so(places: Places) -> None:
    first, other = places(2)
    desk = Desk(first)
    with guests([other]) as ends:
        desk.wait_for_all(10)
        for wire in desk._wires.values():
            wire.close()
    assert "has lost rank 0 (the connection was closed)" in str(ends[0])


def test_a_message_may_come_in_pieces_and_nonsense_ends_the_connection() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(listener.getsockname())
    wire = Wire(listener.accept()[0])
    caller.sendall(b'{"a": ')
    with pytest.raises(TimeoutError):
        wire.receive(0.1)
    caller.sendall(b'1}\n{"b": 2}\nnonsense\n[]\n')
    assert [wire.receive(1), wire.receive(1)] == [{"a": 1}, {"b": 2}]
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError):
            wire.receive(1)
    caller.close()
    with pytest.raises(ConnectionResetError):
        wire.receive(1)
    wire.close()
    listener.close()


def test_work_ends_in_time_or_is_left_behind() -> None:
    let_go = threading.Event()
    assert within(5, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
    with pytest.raises(TimeoutError, match="not done within"):
        within(0.1, lambda: let_go.wait(30))
    let_go.set()


def test_an_unknown_error_keeps_its_kind(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(context: Context) -> dict[str, Any]:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setitem(steps.STEPS, "disk", Step("x", disk))
    assert perform(context(), "disk", {}) == {"error": "[Errno 28] No space left on device: '/x'"}
