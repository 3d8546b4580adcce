# What differs between sites, for every batch script in this folder, which sources it. Read it once and set it once.
#
# Each variable here may also come from outside: DRDG_MPI=pmix sbatch slurm/shards_mpi.sbatch ...
# shellcheck shell=bash

# 1. Software of the site. Needed where Python, CUDA or MPI come as modules, as with mpi4py built for the site's MPI.
# module purge
# module load python/3.11 cuda/12.4 openmpi/5.0

# 2. Python: a virtual environment that every node can see, by default the checkout's own, which `make venv` makes
# (`.venv/bin/python -m pip install -e '.[mpi]'` in it adds MPI).
: "${DRDG_VENV:=$PWD/.venv}"

# 3. MPI: what `srun --mpi=` must be for the MPI that mpi4py loads: pmi2 for MPICH (the package `mpich` of the extra
# `mpi`) and Intel MPI, pmix for Open MPI; `srun --mpi=list` shows what the cluster has. With the wrong one every process
# would believe that it is alone; the commands see that and end.
: "${DRDG_MPI:=pmi2}"

# 4. The network between nodes, where training's processes must be told which (`ip -brief address` lists them).
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# 5. A disk of the node's own, for temporary files and the copies of remote shards (shards.cache).
# export TMPDIR=/scratch/$USER

# 6. Threads of libraries in each process. The shard build starts its own threads where a process has cores to spare.
: "${OMP_NUM_THREADS:=${SLURM_CPUS_PER_TASK:-1}}"
export OMP_NUM_THREADS

# ---------------------------------------------------------------------------------------- nothing to set below this line

# srun has not taken over sbatch's --cpus-per-task by itself since Slurm 22.05.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

if [ ! -x "$DRDG_VENV/bin/python" ]; then
    echo "error: there is no Python in $DRDG_VENV; run 'make venv' in the checkout, or set DRDG_VENV" >&2
    exit 2
fi
PATH=$DRDG_VENV/bin:$PATH
