"""What the tests of compared translators share: the same networks in ``drdg`` and as the oracle's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import oracle
import torch
from oracle_translators import NETWORKS, Network, State, to_side
from torch import Tensor

from drdg.config import Config, load_config
from drdg.methods import Phase, build_translator

SOURCE, TARGET = 256, 128
BOUND = 1e-9
GENERATORS, CRITICS = NETWORKS[:2], NETWORKS[2:]


def narrow(*overrides: str) -> Config:
    """Both domains small, every network narrow, in float64."""
    tiles = [
        f"source.tile={SOURCE}",
        f"target.tile={TARGET}",
        "gan.precision=float64",
        "run.seed=7",
        "gan.batch_size=2",
    ]
    widths = ["cyclegan.width=3", "cyclegan.blocks=2", "cyclegan.critic_width=2", "benjdira.width=3"]
    widths += ["benjdira.critic_width=2", "dualgan.width=2", "dualgan.critic_width=2"]
    return load_config(None, [*tiles, *widths, "gan.generator_lr=2e-4", "gan.critic_lr=3e-4", *overrides])


def agree(found: Tensor, expected: Tensor, what: str) -> None:
    """To 1e-9 of the largest entry; 1e-12 for what is 0 but for rounding."""
    assert found.dtype == torch.float64, what
    assert found.shape == expected.shape, what
    worst = (found.detach() - expected.detach()).abs().max().item()
    bound = BOUND * expected.detach().abs().max().item() + 1e-12
    assert worst <= bound, f"{what}: differs by {worst:.3g}, allowed {bound:.3g}"


def make_batch(config: Config, step: int) -> dict[str, Tensor]:
    """A batch of the stream's kind, the whole global one."""
    random = torch.Generator().manual_seed(100 + step)
    size = config.gan.batch_size

    def images(side: int) -> Tensor:
        return torch.randint(0, 256, (size, 3, side, side), generator=random, dtype=torch.uint8)

    position = torch.arange(step * size, (step + 1) * size)
    return {
        "source_image": images(config.source.tile),
        "target_image": images(config.target.tile),
        "position": position,
    }


def make_part(batch: Mapping[str, Tensor], rank: int, ranks: int) -> dict[str, Tensor]:
    """A rank's share of it."""
    return {name: values.tensor_split(ranks)[rank] for name, values in batch.items()}


class TranslatorPair:
    """A translator of ``drdg`` and the oracle's state, with the same numbers.

    ``names`` of the generator and of the critic are the oracle's names -> the module's.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        networks: tuple[Network, Network],
        shapes: tuple[oracle.Shapes, oracle.Shapes],
        names: tuple[Mapping[str, str], Mapping[str, str]],
    ):
        self.config = config
        self.module = build_translator(name, config)
        self.module.networks.double()
        self.names = {network: names[network in CRITICS] for network in NETWORKS}
        weights = {
            network: oracle.random_weights(shapes[network in CRITICS], seed) for seed, network in enumerate(NETWORKS)
        }
        self.state = State(weights, *networks)
        for network in NETWORKS:
            state = {self.names[network][ours]: w.clone() for ours, w in weights[network].items()}
            self.module.networks[network].load_state_dict(state, strict=True)
        self.phases = {phase.name: phase for phase in self.module.phases()}
        self.optimizers = {
            name: phase.optimizer(list(phase.module.parameters())) for name, phase in self.phases.items()
        }

    def images(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both domains in [-1, 1] at the target's side, source first, for the oracle."""
        scaled = (batch[name].double() / 255 * 2 - 1 for name in ("source_image", "target_image"))
        source, target = (to_side(images, self.config.target.tile) for images in scaled)
        return source, target

    def update(self, phase: str, batch: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """One step of ``drdg``'s phase, whose loss and parts must be the oracle's."""
        self.optimizers[phase].zero_grad(set_to_none=True)
        loss, parts = self.phases[phase].module(batch)
        loss.backward()
        self.optimizers[phase].step()
        agree(loss, expected["total"], f"{phase} loss")
        assert {*parts, "total"} == {*expected}
        for name, part in parts.items():
            agree(part, expected[name], f"{phase} {name}")

    def check_weights(self, when: str) -> None:
        """All four networks are the oracle's."""
        for network in NETWORKS:
            parameters = dict(self.module.networks[network].named_parameters())
            assert set(parameters) == set(self.names[network].values())
            for ours, expected in self.state.weights[network].items():
                found = parameters[self.names[network][ours]].detach()
                worst = (found - expected).abs().max().item()
                assert worst <= BOUND, f"{network} {ours} {when}: differs by {worst:.3g}"


def changed_by(phase: Phase, networks: torch.nn.ModuleDict, batch: dict[str, Tensor]) -> dict[str, set[str]]:
    """The parameters that one step of ``phase`` changes, by network."""
    before = {name: w.clone() for name, w in networks.state_dict().items()}
    optimizer = phase.optimizer([p for p in phase.module.parameters() if p.requires_grad])
    networks.zero_grad(set_to_none=True)
    loss, _ = phase.module(batch)
    loss.backward()
    optimizer.step()
    changed: dict[str, set[str]] = {name: set() for name in networks}
    for name, now in networks.state_dict().items():
        if not torch.equal(now, before[name]):
            network, _, parameter = name.partition(".")
            changed[network].add(parameter)
    return changed


def check_who_learns(name: str, config: Config, still: Callable[[str], set[str]] = lambda _: set()) -> None:
    """Every parameter learns in its own phase, but for the network's ``still``, and in no other."""
    translator = build_translator(name, config)
    translator.networks.double()
    everything = {network: {n for n, _ in module.named_parameters()} for network, module in translator.networks.items()}
    for phase in translator.phases():
        learns = GENERATORS if phase.name == "generator" else CRITICS
        changed = changed_by(phase, translator.networks, make_batch(config, 0))
        assert changed == {n: everything[n] - still(n) if n in learns else set() for n in NETWORKS}, phase.name
        assert all(parameter.requires_grad for parameter in translator.networks.parameters())


def check_translation(name: str, config: Config, generator: Network, names: Mapping[str, str]) -> None:
    """Source images come out at the target's side, in [-1, 1], as the oracle says, and without gradients."""
    translator = build_translator(name, config)
    translator.networks.double()
    state = translator.networks["to_target"].state_dict()
    images = torch.rand(3, 3, config.source.tile, config.source.tile, dtype=torch.float64) * 2 - 1
    found = translator.translate(images)
    side = config.target.tile
    assert found.shape == (3, 3, side, side)
    assert found.abs().max() <= 1
    assert not found.requires_grad
    agree(found, generator({ours: state[theirs] for ours, theirs in names.items()}, to_side(images, side)), "image")
    assert translator.predict_depth(images) is None
