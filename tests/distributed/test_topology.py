"""Who a process is, from what its launcher set; a half-set environment is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drdg.distributed.topology import (
    SRUN,
    TORCHRUN,
    Topology,
    discover,
    is_first_on_node,
    mpi_place,
    mpi_processes,
    tasks_of_node,
)

TORCHRUN_SET = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
}
SRUN_SET = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "12345",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[1-2]",
}


def test_nothing_set_is_one_process() -> None:
    assert discover({}) == Topology()
    # In a batch script outside srun, Slurm's job variables alone do not make a rank.
    assert discover({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == Topology()


def test_torchrun() -> None:
    assert discover(TORCHRUN_SET) == Topology(3, 4, 1, 2, "node1", 29400, "torchrun")


def test_srun_takes_the_first_node_as_master_and_a_port_of_its_own() -> None:
    topology = discover(SRUN_SET, first_host=lambda nodes: {"node[1-2]": "node1"}[nodes])
    assert topology == Topology(3, 4, 1, 2, "node1", 20000 + 2345, "srun", "12345.0.0")


def test_torchrun_inside_srun_is_torchrun() -> None:
    assert discover({**SRUN_SET, **TORCHRUN_SET}).launcher == "torchrun"


@pytest.mark.parametrize("missing", [name for name in TORCHRUN if name not in ("RANK", "WORLD_SIZE")])
def test_a_half_set_torchrun_environment_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        discover({name: value for name, value in TORCHRUN_SET.items() if name != missing})


@pytest.mark.parametrize("missing", SRUN)
def test_a_half_set_srun_environment_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        discover({name: value for name, value in SRUN_SET.items() if name != missing}, first_host=lambda nodes: "x")


def met(rank: int, size: int) -> Topology:
    return Topology(rank, size, 0, 1, "node1", 12345, "mpiexec")


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD", "MV2_COMM_WORLD", "PMI"])
def test_mpiexec_says_rank_and_size_and_mpi_the_rest(name: str) -> None:
    variables = {f"{name}_RANK": "1", f"{name}_SIZE": "2"}
    assert discover(variables, meet=met) == met(1, 2)
    assert discover({f"{name}_RANK": "0", f"{name}_SIZE": "1"}, meet=met) == Topology(launcher="mpiexec")


def test_mpiexec_inside_an_allocation_is_told_from_srun() -> None:
    srun = {**SRUN_SET, "PMI_RANK": "3", "PMI_SIZE": "4"}  # as srun --mpi=pmi2 sets them
    assert discover(srun, first_host=lambda nodes: "node1", meet=met).launcher == "srun"
    proxies = {**SRUN_SET, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_RANK": "5", "PMI_SIZE": "8"}
    assert discover(proxies, meet=met) == met(5, 8)
    assert discover({**srun, "MPI_LOCALNRANKS": "4"}, meet=met) == met(3, 4)


def test_deepspeeds_launcher_has_its_own_name_for_the_ranks_of_a_node() -> None:
    there = {name: value for name, value in TORCHRUN_SET.items() if name != "LOCAL_WORLD_SIZE"}
    place = discover({**there, "LOCAL_SIZE": "2", "CROSS_RANK": "1", "CROSS_SIZE": "2"})
    assert place == Topology(3, 4, 1, 2, "node1", 29400, "deepspeed")
    with pytest.raises(ValueError, match=r"deepspeed's environment is half set \(LOCAL_WORLD_SIZE missing\)"):
        discover({**there, "CROSS_RANK": "1"})


def test_a_launcher_that_does_not_say_how_many_is_refused() -> None:
    with pytest.raises(ValueError, match="how many processes"):
        discover({"PMIX_RANK": "0"})


def test_an_unresolved_master_is_an_error_never_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="scontrol"):
        discover(SRUN_SET)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5))
def test_tasks_per_node_in_slurms_short_form(groups: list[tuple[int, int]]) -> None:
    text = ",".join(str(count) if times == 1 else f"{count}(x{times})" for count, times in groups)
    expanded = [count for count, times in groups for _ in range(times)]
    assert [tasks_of_node(text, node) for node in range(len(expanded))] == expanded


# What salloc's shell has where the site opens it as a step on the first node; read off Slurm 22.05.
INTERACTIVE_STEP = {
    "SLURM_STEP_ID": "4294967290",
    "SLURM_JOB_ID": "12345",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_STEP_NODELIST": "node1",
}


def test_the_shell_that_salloc_opens_is_one_process() -> None:
    assert discover(INTERACTIVE_STEP) == Topology(launcher="srun")
    assert mpi_place(INTERACTIVE_STEP) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "5"}, (0, 5)),
        (SRUN_SET, (3, 4)),
        ({**SRUN_SET, "PMIX_RANK": "3"}, (3, 4)),
        # A batch script outside srun.
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1)),
        # mpiexec in an allocation: its proxies are a step of their own, one task a node.
        ({**SRUN_SET, "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "PMI_RANK": "5", "PMI_SIZE": "8"}, (5, 8)),
    ],
)
def test_the_place_among_mpi_processes(environment: dict[str, str], place: tuple[int, int]) -> None:
    assert mpi_place(environment) == place
    assert mpi_processes(environment) == place[1]


@pytest.mark.parametrize(
    ("environment", "words"),
    [(TORCHRUN_SET, "torchrun started this; start it by mpiexec or srun"), ({"PMIX_RANK": "0"}, "how many processes")],
)
def test_a_launcher_that_is_none_for_mpi_is_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mpi_place(environment)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({**TORCHRUN_SET, "MASTER_PORT": "ib0"}, "MASTER_PORT='ib0'"),
        ({**TORCHRUN_SET, "RANK": "3.5"}, "RANK='3.5'"),
        ({**SRUN_SET, "SLURM_PROCID": "first"}, "SLURM_PROCID='first'"),
        ({"PMI_RANK": "0", "PMI_SIZE": "many"}, "PMI_SIZE='many'"),
    ],
)
def test_what_is_no_number_is_named(environment: dict[str, str], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is no number; a launcher sets it"):
        discover(environment, first_host=lambda nodes: "node1")


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_LOCALID": "1"}, False),
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, False),  # torchrun, once per node by srun
        ({"MPI_LOCALRANKID": "0", "SLURM_LOCALID": "3"}, True),  # mpiexec within a step
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, False),
    ],
)
def test_the_first_of_a_node(environment: dict[str, str], is_first: bool) -> None:
    assert is_first_on_node(environment) is is_first


def test_steps_of_a_job_and_its_starts_meet_in_places_of_their_own() -> None:
    changed = ({}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "12346"})
    places = [discover({**SRUN_SET, **other}, first_host=lambda nodes: "node1") for other in changed]
    assert len({place.master_port for place in places}) == len({place.meeting for place in places}) == len(changed)
    again = discover({**SRUN_SET, "SLURM_JOB_ID": "22345"}, first_host=lambda nodes: "node1")
    assert again.master_port == places[0].master_port
    assert again.meeting != places[0].meeting


@pytest.mark.parametrize(
    "stale", [TORCHRUN_SET | {"RANK": "0", "WORLD_SIZE": "1"}, {"PMI_SIZE": "1"}, {"OMPI_COMM_WORLD_SIZE": "1"}]
)
def test_variables_of_an_earlier_launch_do_not_make_every_task_a_rank_alone(stale: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="say 1 rank, but srun started 4"):
        discover({**SRUN_SET, **stale}, first_host=lambda nodes: "node1")
