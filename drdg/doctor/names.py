"""Station 6, doctor: whether each node resolves the others' names, and its own to an address that they reach."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence
from typing import Any

from drdg.doctor.answers import Answer, groups, listed, milliseconds, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning

CHECK = "host names"
# A name server answers within milliseconds; one second is the first of several that are asked in turn and time out.
SLOW_S = 1.0


def probe(context: Context, hosts: Sequence[str]) -> dict[str, Any]:
    """Addresses by name, seconds for the slowest, and why a name has none."""
    addresses: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    slowest = ("", 0.0)
    for name in dict.fromkeys([context.host, *hosts, context.topology.master_address or context.host]):
        began = time.perf_counter()
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses[name] = sorted({str(entry[4][0]) for entry in found})
        except OSError as error:
            errors[name] = str(error.strerror or error)
        slowest = max(slowest, (name, time.perf_counter() - began), key=lambda pair: pair[1])
    return {"own": context.host, "addresses": addresses, "errors": errors, "slowest": slowest}


def judge(answers: Sequence[Answer], master: str | None) -> list[Finding]:
    """Whether names mean addresses that other nodes reach. Each answer is from another node."""
    found = []
    several = len(answers) > 1
    for lacking, ranks in groups(answers, lambda value: tuple(sorted(value["errors"].items()))).items():
        for name, reason in lacking:
            needed = several and name == master
            cure = "put all nodes into the name server or every /etc/hosts"
            measured = f"{named(ranks)} cannot resolve {name} ({reason})"
            found.append((bad if needed else warning)(CHECK, measured, cure))
    if several:
        found += _loopback(answers, master)
    slowest = max(answers, key=lambda answer: float(answer.value["slowest"][1]))
    name, seconds = slowest.value["slowest"]
    if seconds > SLOW_S:
        cure = "see which name server of /etc/resolv.conf does not answer, or put the nodes into /etc/hosts"
        measured = f"{named([slowest.who])} takes {milliseconds(seconds)} to resolve {name}"
        found.append(warning(CHECK, measured, cure, slowest_s=seconds))
    if found:
        return found
    own = answers[0].value["addresses"][answers[0].value["own"]]
    count = max(len(answer.value["addresses"]) for answer in answers)
    measured = f"{count} resolved by every node" if several else f"{answers[0].value['own']} is {listed(own)}"
    return [ok(CHECK, f"{measured}, slowest {milliseconds(seconds)}", slowest_s=seconds)]


def _loopback(answers: Sequence[Answer], master: str | None) -> list[Finding]:
    found = []
    own = [answer for answer in answers if is_loopback(answer.value["addresses"].get(answer.value["own"], []))]
    if own:
        measured = f"the own name means {listed(own[0].value['addresses'][own[0].value['own']])} for {named(_who(own))}"
        cure = (
            "give that name its network address in /etc/hosts, or set GLOO_SOCKET_IFNAME: other nodes are told this "
            "address, and would call themselves"
        )
        found.append(bad(CHECK, measured, cure))
    lost = [answer for answer in answers if is_loopback(answer.value["addresses"].get(master or "", []))]
    lost = [answer for answer in lost if answer.value["own"] != master]
    if lost:
        cure = "give the job a master by a name or an address that means the same node everywhere"
        found.append(bad(CHECK, f"the master {master} means the own node for {named(_who(lost))}", cure))
    return found


def is_loopback(addresses: Sequence[str]) -> bool:
    """Whether a name leads nowhere but to the node itself."""
    return bool(addresses) and all(ipaddress.ip_address(text.partition("%")[0]).is_loopback for text in addresses)


def _who(answers: Sequence[Answer]) -> list[Any]:
    return [answer.who for answer in answers]
