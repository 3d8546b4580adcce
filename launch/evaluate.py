"""Score a row's segmentor on whole TOPs of the target; it must be trained."""

from drdg.stages.one import main

if __name__ == "__main__":
    main("evaluate", __doc__)
