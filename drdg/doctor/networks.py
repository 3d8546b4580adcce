"""Station 6, doctor: what training with a configuration sends, keeps in memory and writes, counted on its networks.

They are built on torch's meta device, where weights have shapes and no bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from drdg.config import Config
from drdg.doctor.context import Context
from drdg.experiments import config_of, find_row

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
# A generator's weights have a gradient and Adam's two means beside them, a critic's a gradient and RMSprop's one.
GENERATOR_COPIES, CRITIC_COPIES = 4, 3


@dataclass(frozen=True)
class Networks:
    """A row's parameters, and how often their gradients are sent."""

    row: str
    generators: int
    """Parameters of both."""
    critics: int
    n_critic: int
    """Iterations for each in which the generators learn; the critics learn in all."""
    weight_bytes: int
    """Of a gradient's number on its way."""
    kept_bytes: int
    """Of a number in a checkpoint."""

    @property
    def critic_bytes(self) -> int:
        """Gradients of one update of the critics."""
        return self.critics * self.weight_bytes

    @property
    def generator_bytes(self) -> int:
        """Gradients of one update of the generators."""
        return self.generators * self.weight_bytes

    @property
    def iteration_bytes(self) -> float:
        """Gradients of an iteration, on average."""
        return self.critic_bytes + self.generator_bytes / self.n_critic

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients and optimizers on each rank, without activations."""
        return (self.generators * GENERATOR_COPIES + self.critics * CRITIC_COPIES) * self.kept_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and optimizers."""
        return (self.generators * (GENERATOR_COPIES - 1) + self.critics * (CRITIC_COPIES - 1)) * self.kept_bytes


def trained_row(config: Config) -> str | None:
    """The first row of the run that has a translator to train."""
    return next((name for name in config.run.rows if find_row(name).is_trained), None)


def count(config: Config) -> Networks | None:
    """The networks of :func:`trained_row`; None without one."""
    name = trained_row(config)
    if name is None:
        return None
    import torch

    from drdg.methods import build_translator

    row = find_row(name)
    config = config_of(row, config)
    assert row.translator is not None
    with torch.device("meta"):
        translator = build_translator(row.translator, config)
    # Each phase owns what it sends: the generators' is the one that is not run at every iteration.
    sizes = {
        phase.name: sum(parameter.numel() for parameter in phase.module.parameters()) for phase in translator.phases()
    }
    precision = config.gan.precision
    return Networks(
        row=name,
        generators=sizes["generator"],
        critics=sizes["critic"],
        n_critic=config.gan.n_critic,
        weight_bytes=WEIGHT_BYTES[precision],
        kept_bytes=max(WEIGHT_BYTES[precision], WEIGHT_BYTES["float32"]),
    )


def probe(context: Context) -> dict[str, Any]:
    """The networks of this configuration; empty when no row trains any."""
    networks = count(context.config)
    return {} if networks is None else asdict(networks)
