"""A crew of MPI processes: jobs once each and to whoever is free, values agreed on, and one end for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest

from drdg.distributed.mpi import open_crew

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# A command of ours whose action is put in; says in files which process it was, and how it ended.
PROGRAM = """
import os, time
from contextlib import contextmanager
from pathlib import Path
import numpy as np
from drdg import cli
from drdg.distributed.mpi import open_crew
from drdg.shards.crew import ALONE

FOLDER = Path({folder!r})

def wait_for(pattern, number):
    while len(list(FOLDER.glob(pattern))) < number:
        crew.poll()
        time.sleep(0.001)

@contextmanager
def opened():
    global crew
    with open_crew(ALONE) as crew:
        yield crew

def action(config, options, crew):
    (FOLDER / f"pid-{{crew.rank}}.new").write_text(str(os.getpid()))
    (FOLDER / f"pid-{{crew.rank}}.new").rename(FOLDER / f"pid-{{crew.rank}}")
{action}

try:
    cli.run_together(cli.parser("A test."), action, opened)
except SystemExit as end:
    (FOLDER / f"status-{{crew.rank}}").write_text(str(end.code))
    raise
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """A script that does the lines given, in which ``crew`` is the crew."""

    def write(lines: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.format(folder=str(tmp_path), action=indent(dedent(lines), "    ")))
        return path

    return write


def statuses(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("status-*"))]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_job_once_and_values_agreed_on(size: int, mpiexec: Run, program: Callable[[str], Path]) -> None:
    done = mpiexec(
        size,
        program(
            """
            import json
            did = []
            # Only rank 0's list counts.
            jobs = [9, 3, 4, *range(20, 40)] if crew.rank == 0 else [77]
            crew.run(jobs, lambda job: (crew.poll(), did.append(job)), "numbers", done=7)
            crew.run([], did.append, "nothing")
            parts = crew.gather(did)
            total = crew.total(np.array([[1, crew.rank]]))
            values = {
                "jobs": sorted(sum(parts, [])) == sorted([9, 3, 4, *range(20, 40)]),
                "parts": len(parts),
                "shared": crew.shared(lambda: crew.rank),
                "total": [str(total.dtype), total.tolist()],
                "mean": (crew.total(np.array([0.5])) / crew.size).tolist(),
                "lowest": crew.lowest(np.array([crew.rank, -crew.rank])).tolist(),
                "highest": crew.highest(np.array([0.5 * crew.rank])).tolist(),
                "cores": crew.cores >= 1,
            }
            assert all(other == values for other in crew.gather(values))
            if crew.rank == 0:
                print(json.dumps(values))
            """
        ),
    )
    assert done.returncode == 0, done.stderr
    last = size - 1
    assert json.loads(done.stdout) == {
        "jobs": True,
        "parts": size,
        "shared": 0,
        "total": ["int64", [[size, size * last // 2]]],
        "mean": [0.5],
        "lowest": [0, -last],
        "highest": [last / 2],
        "cores": True,
    }
    # One process shows what all have done, and nothing else is said.
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == ["numbers: 30/30"]


def test_a_slow_rank_gets_fewer_jobs(mpiexec: Run, program: Callable[[str], Path], tmp_path: Path) -> None:
    """Rank 1's first job lasts until the others have done all that it does not hold itself: two of forty."""
    done = mpiexec(
        3,
        program(
            """
            def work(job):
                (FOLDER / f"begun-{crew.rank}-{job}").touch()
                if crew.rank == 1:
                    wait_for("done-*", 38)
                else:
                    wait_for("begun-1-*", 1)
                (FOLDER / f"done-{crew.rank}-{job}").touch()
                crew.poll()

            crew.run(range(40), work, "numbers")
            """
        ),
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= len(list(tmp_path.glob("done-1-*"))) <= 2
    assert len(list(tmp_path.glob("done-*"))) == 40


def test_near_the_end_no_rank_holds_a_job_that_another_could_do(
    mpiexec: Run, program: Callable[[str], Path], tmp_path: Path
) -> None:
    done = mpiexec(
        2,
        program(
            """
            def work(job):
                if crew.rank == 1:
                    (FOLDER / "slow").touch()
                    wait_for("done-*", 2)
                else:
                    wait_for("slow", 1)
                (FOLDER / f"done-{crew.rank}-{job}").touch()

            crew.run(range(3), work, "numbers")
            """
        ),
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("done-1-*"))) == 1


@pytest.mark.parametrize(
    ("rank", "raised", "said", "status"),
    [
        (0, "ValueError('a.tif: is cut; mend it')", "error: a.tif: is cut; mend it", 2),
        (2, "ValueError('a.tif: is cut; mend it')", "error: a.tif: is cut; mend it", 2),
        (1, "OSError(13, 'No', '/x')", "error: /x: No; give yourself permission or choose another place", 1),
    ],
)
def test_an_error_in_a_job_ends_all_with_one_sentence(
    rank: int, raised: str, said: str, status: int, mpiexec: Run, program: Callable[[str], Path], tmp_path: Path
) -> None:
    done = mpiexec(
        3,
        program(
            f"""
            def work(job):
                (FOLDER / f"begun-{{job:03d}}").touch()
                if crew.rank == {rank}:
                    raise {raised}
                crew.poll()
                time.sleep(0.01)

            crew.run(range(1000), work, "numbers")
            """
        ),
    )
    assert done.stderr.splitlines() == [said]
    assert done.returncode != 0
    assert statuses(tmp_path) == 3 * [str(status)]
    assert len(list(tmp_path.glob("begun-*"))) < 900


def test_of_several_errors_the_lowest_ranks_is_said(
    mpiexec: Run, program: Callable[[str], Path], tmp_path: Path
) -> None:
    done = mpiexec(
        3,
        program(
            """
            class Own(ValueError):
                def __reduce__(self):
                    raise TypeError("does not travel")

            def work(job):
                if crew.rank == 0:
                    wait_for("failing-*", 2)
                else:
                    (FOLDER / f"failing-{crew.rank}").touch()
                    wait_for("failing-*", 2)
                    raise Own(f"rank {crew.rank} fails")

            try:
                crew.run(range(20), work, "numbers")
            finally:
                print("cleared up")
            """
        ),
    )
    assert done.stderr.splitlines() == ["error: rank 1 fails"]
    assert statuses(tmp_path) == ["2", "2", "2"]
    assert done.stdout.count("cleared up") == 3


def test_a_sentence_put_into_other_words_on_its_way_is_still_said_once(
    mpiexec: Run, program: Callable[[str], Path], tmp_path: Path
) -> None:
    done = mpiexec(
        2,
        program(
            """
            try:
                crew.shared(lambda: Path("/nowhere/at all").read_text())
            except OSError as error:
                raise ValueError(f"{error.filename} cannot be read; look for it") from error
            """
        ),
    )
    assert done.stderr.splitlines() == ["error: /nowhere/at all cannot be read; look for it"]
    assert statuses(tmp_path) == ["2", "2"]


def test_a_wrong_configuration_is_said_once(mpiexec: Run, program: Callable[[str], Path], tmp_path: Path) -> None:
    done = mpiexec(3, program("print('never')"), "source.strid=3")
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "source.strid" in line
    assert statuses(tmp_path) == ["2", "2", "2"]


def test_the_configuration_is_printed_once(mpiexec: Run, program: Callable[[str], Path]) -> None:
    done = mpiexec(2, program("print('never')"), "--print-config", "source.stride=100")
    assert done.returncode == 0
    assert done.stdout.count("stride: 100") == 1
    assert "never" not in done.stdout


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("crew.run(range(9), lambda job: {{}}['bug'] if crew.rank == {rank} else forever(), 'n')", "KeyError: 'bug'"),
        ("crew.rank == {rank} and {{}}['bug']\ncrew.gather(1)", "KeyError: 'bug'"),
        ("crew.rank == {rank} and int('x')\ncrew.shared(lambda: 1)", "error: invalid literal for int()"),
    ],
)
def test_what_one_rank_alone_knows_of_leaves_no_other_waiting(
    action: str, said: str, rank: int, mpiexec: Run, program: Callable[[str], Path]
) -> None:
    first = "forever = lambda: wait_for('never', 1)\n"
    done = mpiexec(2, program(first + action.format(rank=rank)))
    assert done.returncode != 0
    assert done.stderr.count(said) == 1, done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_takes_the_others_with_it(rank: int, program: Callable[[str], Path], tmp_path: Path) -> None:
    path = program("crew.run([1, 2], lambda job: wait_for('never', 1), 'numbers')")
    command = [Path(sys.prefix, "bin/mpiexec"), "-n", "2", sys.executable, path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        while len(list(tmp_path.glob("pid-?"))) < 2:
            time.sleep(0.01)
        pids = [int((tmp_path / f"pid-{number}").read_text()) for number in (0, 1)]
        os.kill(pids[rank], signal.SIGKILL)
        assert launcher.wait() != 0
    while any(is_running(pid) for pid in pids):
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


SINGLETONS = [
    {"PMI_SIZE": "2", "PMI_RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
]


def start(code: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    lines = f"from drdg import cli\nfrom drdg.distributed.mpi import open_crew\n{code}"
    wrapped = f"{lines}\nwith cli.one_sentence(), open_crew('alone') as crew:\n    print(crew)"
    environment = os.environ | variables
    return subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("variables", SINGLETONS)
def test_processes_that_mpi_does_not_bring_together_are_refused(variables: dict[str, str]) -> None:
    done = start("", variables)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "processes were started, but MPICH, the MPI that mpi4py loads, sees 1" in line
    assert "srun --mpi=pmi2" in line


def test_of_refused_processes_one_speaks() -> None:
    done = start("", SINGLETONS[0] | {"PMI_RANK": "1"})
    assert done.returncode == 2
    assert done.stderr == ""


def test_mpi_that_is_not_there_is_said_with_the_cure() -> None:
    done = start("import sys\nsys.modules['mpi4py'] = None", SINGLETONS[0])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "2 processes were started, but MPI cannot be loaded" in line
    assert "pip install 'drdg[mpi]'" in line


def test_one_process_loads_no_mpi() -> None:
    done = start("import atexit, sys\natexit.register(lambda: print('mpi4py' in sys.modules))", {})
    assert done.stdout.splitlines() == ["alone", "False"]


def test_an_error_of_one_process_is_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine") as raised, open_crew("alone"):
        raise ValueError("mine")
    assert not hasattr(raised.value, "said_elsewhere")
