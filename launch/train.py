"""Train a row's translator, alone or as one rank of those that torchrun, srun, mpiexec or deepspeed started."""

from drdg.stages.rank import main

if __name__ == "__main__":
    main("gan", __doc__)
