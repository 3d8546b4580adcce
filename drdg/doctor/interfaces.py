"""Station 6, doctor: over which network interface gloo and NCCL would send, and whether it is there and up.

Their rules are those of PyTorch's ``ProcessGroupGloo`` and of NCCL's user guide (``NCCL_SOCKET_IFNAME``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from drdg.doctor.answers import Answer, groups, leaders, listed, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning
from drdg.doctor.names import is_loopback

CHECK = "interface"
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
# What NCCL takes last, if there is nothing else.
LAST_RESORTS = ("docker", "lo", "virbr")
FIRST_CHOICE = "ib"

Interface = Mapping[str, Any]
"""``up`` bool, ``addresses`` list of texts, ``speed_mbit`` int or 0 where it is not known."""


def probe(context: Context) -> dict[str, Any]:
    """This node's interfaces, its own addresses by its name, and what the two variables ask for."""
    import psutil

    states, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    interfaces = {
        name: {
            "up": state.isup,
            "speed_mbit": state.speed,
            "addresses": [
                entry.address.partition("%")[0]
                for entry in addresses.get(name, [])
                if entry.family in (socket.AF_INET, socket.AF_INET6)
            ],
        }
        for name, state in states.items()
    }
    try:
        own = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(context.host, None)})
    except OSError:
        own = []
    return {"interfaces": interfaces, "own": own, GLOO: os.environ.get(GLOO), NCCL: os.environ.get(NCCL)}


def judge(answers: Sequence[Answer], backend: str) -> list[Finding]:
    """Whether ``backend`` (``gloo`` or ``nccl``) finds the interface it is told, or one that leads to other nodes.

    The variables may differ between the ranks of a node.
    """
    found = []
    for variable in (GLOO, NCCL):
        in_use = variable == (GLOO if backend == "gloo" else NCCL)
        faults = groups(answers, lambda value, variable=variable: fault(value, variable))  # type: ignore[misc]
        for reason, ranks in faults.items():
            if reason:
                cure = f"set {variable} to an interface that each node has (ip -brief address), or unset it"
                found.append((bad if in_use else warning)(CHECK, f"{variable}={reason} for {named(ranks)}", cure))
    choices = groups(answers, lambda value: taken(value, backend))
    alone = [rank for choice, ranks in choices.items() if choice == ("lo",) for rank in ranks]
    if len(leaders(answer.who for answer in answers)) > 1 and alone and not found:
        cure = f"set {GLOO if backend == 'gloo' else NCCL} to the interface that leads to the other nodes"
        found.append(bad(CHECK, f"{backend} would take lo, which leads nowhere, for {named(alone)}", cure))
    if found:
        return found
    shown = "; ".join(
        f"{backend} takes {_shown(ranks[0].host, choice, answers)}" + (f" for {named(ranks)}" * (len(choices) > 1))
        for choice, ranks in choices.items()
    )
    return [ok(CHECK, shown, interfaces=sorted({name for choice in choices for name in choice}))]


def fault(value: Mapping[str, Any], variable: str) -> str:
    """What is wrong with the interfaces that ``variable`` asks for: its value and why, or nothing."""
    asked = value[variable]
    if not asked:
        return ""
    known: Mapping[str, Interface] = value["interfaces"]
    names = asked_of_gloo(known, asked) if variable == GLOO else asked_of_nccl(known, asked)
    missing = [name for name in asked.split(",") if name not in known] if variable == GLOO else []
    if missing or not names:
        return f"{asked}: there is no such interface"
    down = [name for name in names if not known[name]["up"]]
    if len(down) == len(names) or (variable == GLOO and down):
        return f"{asked}: {listed(down)} is down"
    if not any(known[name]["addresses"] for name in names):
        return f"{asked}: has no address"
    return ""


def taken(value: Mapping[str, Any], backend: str) -> tuple[str, ...]:
    """The interfaces that ``backend`` would use."""
    known: Mapping[str, Interface] = value["interfaces"]
    if backend == "gloo":
        if value[GLOO]:
            return tuple(asked_of_gloo(known, value[GLOO]))
        # The first address of the host's own name at which it can listen; without one, loopback.
        for address in sorted(value["own"], key=lambda text: is_loopback([text])):
            for name, interface in known.items():
                if address in interface["addresses"]:
                    return (name,)
        return ("lo",)
    usable = [name for name, interface in known.items() if interface["up"] and interface["addresses"]]
    if value[NCCL]:
        return tuple(name for name in asked_of_nccl(known, value[NCCL]) if name in usable)
    for wanted in (
        [name for name in usable if name.startswith(FIRST_CHOICE)],
        [name for name in usable if not name.startswith(LAST_RESORTS)],
        usable,
    ):
        if wanted:
            return tuple(wanted)
    return ()


def asked_of_gloo(known: Mapping[str, Interface], asked: str) -> list[str]:
    """The known interfaces of a list of names."""
    return [name for name in asked.split(",") if name in known]


def asked_of_nccl(known: Mapping[str, Interface], asked: str) -> list[str]:
    """The known interfaces that begin as one of a list says; with ``=`` in front are so, with ``^`` do not."""
    exclude, asked = asked.startswith("^"), asked.removeprefix("^")
    exact, asked = asked.startswith("="), asked.removeprefix("=")
    words = [word for word in asked.split(",") if word]

    def matches(name: str) -> bool:
        return any(name == word if exact else name.startswith(word) for word in words)

    return [name for name in known if matches(name) != exclude]


def _shown(host: str, choice: Sequence[str], answers: Sequence[Answer]) -> str:
    value = next(answer.value for answer in answers if answer.who.host == host)
    words = []
    for name in choice:
        interface = value["interfaces"][name]
        speed = f", {interface['speed_mbit'] / 1000:g} Gbit/s" if interface["speed_mbit"] else ""
        words.append(f"{name} ({listed(interface['addresses'][:1])}{speed})")
    return listed(words) if words else "none"
