"""Write a row's translated source shards; its translator must be trained."""

from drdg.stages.one import main

if __name__ == "__main__":
    main("translate", __doc__)
