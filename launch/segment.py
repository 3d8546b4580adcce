"""Train a row's segmentor; its shards must be translated."""

from drdg.stages.one import main

if __name__ == "__main__":
    main("segment", __doc__)
