"""Station 3, ranks: an update's batch in parts that fit a small card, whose gradients add up to the whole batch's.

Every loss is a mean over samples and no network couples samples, so the parts' losses, each weighted by its share of
the pairs, add up to the batch's loss. The batch-wide BerHu threshold (``loss.berhu.scope=batch``) is the one exception.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from drdg.config import GanConfig

Result = tuple[Tensor, dict[str, Tensor]]
"""A loss and its parts, as a phase gives them."""


def count_micro_batches(config: GanConfig, world_size: int) -> int:
    """In how many parts each rank takes its share of ``gan.batch_size``, so that none exceeds ``gan.micro_batch``."""
    share = config.batch_size // world_size
    return 1 if config.micro_batch is None else -(-share // config.micro_batch)


def split(batch: dict[str, Tensor], count: int) -> list[tuple[dict[str, Tensor], float]]:
    """``count`` parts of a batch, of sizes that differ by one at most, each with its share of the pairs."""
    columns = {name: values.tensor_split(count) for name, values in batch.items()}
    parts = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    pairs = [len(next(iter(part.values()))) for part in parts]
    return [(part, size / sum(pairs)) for part, size in zip(parts, pairs, strict=True)]


def add_up(results: Iterable[tuple[float, Result]]) -> Result:
    """The batch's detached loss and its parts, from the shares and results of its micro-batches."""
    total: Tensor | None = None
    whole: dict[str, Tensor] = {}
    for share, (loss, parts) in results:
        total = share * loss.detach() if total is None else total + share * loss.detach()
        for name, part in parts.items():
            whole[name] = share * part.detach() if name not in whole else whole[name] + share * part.detach()
    assert total is not None, "an update without a batch"
    return total, whole
