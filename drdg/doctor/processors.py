"""Station 6, doctor: what each rank computes on: a GPU of its own, or its cores, and how many threads it has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drdg.config import Config
from drdg.doctor.answers import Answer, Rank, groups, listed, named
from drdg.doctor.context import Context
from drdg.doctor.files import gigabytes
from drdg.doctor.finding import Finding, bad, ok, warning

GPUS, CORES = "GPUs", "cores"
DRIVER = Path("/proc/driver/nvidia/version")
NO_GPU = "cpu"


def probe(context: Context) -> dict[str, Any]:
    """Device, cores and threads of this rank as training would take them."""
    import torch

    from drdg.distributed.group import fair_threads, pick_device

    settings = context.config.distributed
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    threads = torch.get_num_threads()
    if settings.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        threads = settings.threads or fair_threads(context.topology.local_world_size)
    found: dict[str, Any] = {
        "device": NO_GPU,
        "error": "",
        "cores": cores,
        "threads": threads,
        "driver": _driver(),
        "built_for": torch.version.cuda or "",
        "visible": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    }
    try:
        device = pick_device(settings, context.topology)
    except (ValueError, RuntimeError) as error:
        return {**found, "error": str(error).partition("\n")[0]}
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    free, whole = torch.cuda.mem_get_info(device)
    return {
        **found,
        "device": properties.name,
        "identity": str(getattr(properties, "uuid", "") or _pci(properties)),
        "bf16": torch.cuda.is_bf16_supported(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "free_bytes": free,
        "memory_bytes": whole,
    }


def judge_gpus(config: Config, answers: Sequence[Answer]) -> list[Finding]:
    """Whether each rank has a GPU of its own, all alike, with what the configuration needs."""
    found = []
    for reason, ranks in groups(answers, lambda value: str(value["error"])).items():
        if reason:
            said, _, cure = reason.partition("; ")
            found.append(bad(GPUS, f"{said} ({named(ranks)})", cure or "start one rank per GPU, or set another device"))
    with_gpu = [answer for answer in answers if answer.value["device"] != NO_GPU]
    without = [answer.who for answer in answers if answer.value["device"] == NO_GPU and not answer.value["error"]]
    if not with_gpu:
        return found or _none(config, answers)
    if without:
        cure = "ask for as many GPUs as ranks on each node (sbatch --gpus-per-node, --ntasks-per-node)"
        found.append(bad(GPUS, f"{named(without)} would compute on the CPU, the others on GPUs", cure))
    found += _shared(with_gpu)
    if config.gan.precision == "bfloat16":
        lacking = [answer.who for answer in with_gpu if not answer.value["bf16"]]
        if lacking:
            measured = f"gan.precision=bfloat16, but the GPU of {named(lacking)} has no bfloat16"
            found.append(bad(GPUS, measured, "set gan.precision=float32, or ask for newer GPUs (Ampere on)"))
    for what, judgement in (("device", warning), ("driver", warning), ("nccl", bad)):
        kinds = groups(with_gpu, lambda value, what=what: str(value[what]))  # type: ignore[misc]
        if len(kinds) > 1:
            each = "; ".join(f"{name} for {named(ranks)}" for name, ranks in kinds.items())
            cure = "ask for nodes of one kind, with one software; all go at the pace of the slowest"
            found.append(judgement(GPUS, f"{what} differs: {each}", cure))
    if found:
        return found
    first = with_gpu[0].value
    measured = (
        f"{len(with_gpu)} x {first['device']}, one for each rank, {gigabytes(first['memory_bytes'])}, "
        f"{'bf16' if first['bf16'] else 'no bf16'}, driver {first['driver']}, NCCL {first['nccl']}"
    )
    return [ok(GPUS, measured, gpus=len(with_gpu), memory_bytes=first["memory_bytes"], bf16=first["bf16"])]


def _none(config: Config, answers: Sequence[Answer]) -> list[Finding]:
    unused = [answer for answer in answers if answer.value["driver"]]
    if unused and config.distributed.device != "cpu":
        value = unused[0].value
        built = f"torch is built for CUDA {value['built_for']}" if value["built_for"] else "torch is built without CUDA"
        cure = "install torch for this driver, and ask the scheduler for GPUs (--gpus-per-node)"
        who = named(answer.who for answer in unused)
        measured = f"the node of {who} has an NVIDIA driver ({value['driver']}), but torch sees no GPU; {built}"
        return [warning(GPUS, measured, cure)]
    return [ok(GPUS, "none; all ranks compute on the CPU")]


def _shared(answers: Sequence[Answer]) -> list[Finding]:
    found = []
    for (host, identity), ranks in _by(answers, lambda answer: (answer.who.host, answer.value["identity"])).items():
        if identity and len(ranks) > 1:
            cure = "start one rank for each GPU (srun --gpus-per-task=1, or as many tasks as --gpus-per-node)"
            found.append(bad(GPUS, f"{named(ranks)} share one GPU ({identity} of {host})", cure))
    return found


def judge_cores(answers: Sequence[Answer]) -> list[Finding]:
    """Whether the ranks of a node together have no more threads than cores."""
    crowded: dict[tuple[int, int], list[Rank]] = {}
    fewest, most_threads = None, 0
    for _, ranks in _by(answers, lambda answer: answer.who.host).items():
        here = [answer for answer in answers if answer.who in ranks]
        cores = len({core for answer in here for core in answer.value["cores"]})
        threads = sum(int(answer.value["threads"]) for answer in here)
        if threads > cores:
            crowded.setdefault((threads, cores), []).extend(ranks)
        share = cores / len(here)
        fewest = share if fewest is None else min(fewest, share)
        most_threads = max(most_threads, *(int(answer.value["threads"]) for answer in here))
    found = []
    for (threads, cores), ranks in crowded.items():
        measured = f"{threads} threads of {named(ranks)} share {cores} cores on each node"
        cure = "ask for more cores (sbatch --cpus-per-task), or set OMP_NUM_THREADS or distributed.threads lower"
        found.append(warning(CORES, measured, cure, threads=threads, cores=cores))
    measured = f"{fewest:g} for each rank, {most_threads} thread{'s' * (most_threads != 1)} each"
    return found or [ok(CORES, measured, cores_per_rank=fewest, threads=most_threads)]


def _by(answers: Sequence[Answer], key: Any) -> dict[Any, list[Rank]]:
    found: dict[Any, list[Rank]] = {}
    for answer in answers:
        found.setdefault(key(answer), []).append(answer.who)
    return found


def _driver() -> str:
    """The release of NVIDIA's driver as the kernel has it; empty without one."""
    try:
        words = DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), listed(words[:3]))


def _pci(properties: Any) -> str:
    parts = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    return "" if None in parts else ":".join(f"{part:02x}" for part in parts)
