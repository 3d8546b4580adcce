"""Train a row's translator, alone or as one rank of those that torchrun or srun started."""

from drdg.stages.rank import main

if __name__ == "__main__":
    main()
