"""Train a row's segmentor, alone or as one rank of those that torchrun, srun, mpiexec or deepspeed started.

The tiles that it learns from must be translated.
"""

from drdg.stages.rank import main

if __name__ == "__main__":
    main("segment", __doc__)
