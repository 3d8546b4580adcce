"""Station 5, inference: the score of a segmentor on single tiles, as the released code computes the paper's tables.

That code evaluates its prepared tiles, of 512 pixels at a stride of 256, so that most pixels are counted four times, in
the order of a list. Ours are those that ``target.stride`` and ``target.edge`` cut, with ``evaluation.window`` as their
side, TOP by TOP and row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from drdg.config import DomainConfig, EvaluationConfig
from drdg.datasets import Archive, Top
from drdg.inference.sliding import check_window, window_classes
from drdg.metrics import BatchMeans
from drdg.progress import progress
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import grid


def score_tiles(
    segmentor: nn.Module,
    archive: Archive,
    tops: Sequence[Top],
    config: EvaluationConfig,
    domain: DomainConfig,
    *,
    quiet: bool = False,
) -> BatchMeans:
    """Batch means of ``segmentor`` over the tiles of ``tops``, which all have labels.

    ``domain``: whose stride and edge cut the tiles; a TOP smaller than ``config.window`` has none. The segmentor is put
    into evaluation mode meanwhile. Raises ``ValueError`` for a window size that it cannot take.
    """
    check_window(segmentor, config)
    means = BatchMeans(len(archive.classes))
    with evaluation_mode(segmentor):
        for top in tops:
            with TopReader(archive, top) as reader:
                windows = grid(reader.height, reader.width, config.window, domain.stride, domain.edge)
                tiles = window_classes(segmentor, reader, windows, config.batch_size)
                what = f"score tiles of {archive.name} {top.id}"
                for window, ids in progress(tiles, what, total=len(windows), quiet=quiet):
                    means.update(reader.read_label(window), ids)
    return means


@contextmanager
def evaluation_mode(segmentor: nn.Module) -> Iterator[None]:
    """The segmentor in evaluation mode, and then in the mode that it was in."""
    was_training = segmentor.training
    segmentor.eval()
    try:
        yield
    finally:
        segmentor.train(was_training)
