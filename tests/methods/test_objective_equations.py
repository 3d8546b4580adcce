"""Every objective's losses, and networks after whole updates, agree with a plain statement of its equations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import oracle_objectives as oracle
import pupils
import pytest
import torch
from torch import Tensor, nn

from drdg.methods import OBJECTIVES, build_objective
from drdg.methods.mucss import quarter_turns
from drdg.methods.predictions import ORIGINAL, SOURCE, TARGET, TURNED
from drdg.models.keyed import sample_keys
from drdg.models.segmentor_randomness import seed_randomness

BOUND = 1e-9
UPDATES = 2  # from the second on Adam's moments and the batch norms' statistics have a past
USES = {"source": SOURCE, "target": TARGET, "original": ORIGINAL, "turned": TURNED}
# A prediction's confidence is one that some pixels have and others have not, for both segmentors.
CONFIDENCE = 0.4
SETTINGS = (
    "output_space.weight=0.3",
    "mucss.original=0.7",
    "mucss.pseudo=0.9",
    "mucss.rotation=1.3",
    f"mucss.confidence={CONFIDENCE}",
)
SEGMENTORS = {"plain": pupils.plain_segmentor, "real": pupils.real_segmentor}
Losses = list[Tensor]


class Twin:
    """The plain statement's side: its own copies of all networks, and its own Adam."""

    def __init__(self, name: str, networks: nn.ModuleDict, seed: int, rates: dict[str, float]):
        self.name, self.seed = name, seed
        self.networks = copy.deepcopy(networks)
        self.adams = {key: oracle.Adam(network.parameters(), rates[key]) for key, network in self.networks.items()}

    def update(self, batch: dict[str, Tensor]) -> Losses:
        def look(use: str, images: Tensor) -> Tensor:
            segmentor = self.networks["segmentor"].train()
            seed_randomness(segmentor, sample_keys(self.seed, batch["position"], USES[use]))
            return segmentor(images.double() / 255)

        if self.name == "source_only":
            losses = {"segmentor": oracle.source_only(look, batch)}
        elif self.name == "output_space":
            weights = dict(self.networks["discriminator"].named_parameters())
            losses = dict(
                zip(("segmentor", "discriminator"), oracle.output_space(look, weights, batch, 0.3), strict=True)
            )
        else:
            quarters = quarter_turns(self.seed, batch["position"]).tolist()
            weights = oracle.Weights(original=0.7, pseudo=0.9, rotation=1.3, confidence=CONFIDENCE)
            losses = {"segmentor": oracle.mucss(look, batch, float(batch["progress"][0]), quarters, weights)}
        for key, loss in losses.items():
            self.adams[key].step(loss)
        return [loss.detach() for loss in losses.values()]


@pytest.mark.parametrize("segmentor", SEGMENTORS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_updates_are_those_of_the_equations(name: str, segmentor: str) -> None:
    config = pupils.settings(*SETTINGS)
    objective = build_objective(name, config, SEGMENTORS[segmentor](), pupils.alone)
    rates = {"segmentor": config.segmentation.lr, "discriminator": config.output_space.lr}
    twin = Twin(name, objective.networks, config.run.seed, rates)
    phases = objective.phases()
    optimizers = [phase.optimizer(phase.module.parameters()) for phase in phases]
    for number in range(UPDATES):
        batch = pupils.make_batch(number, done=0.4 + 0.3 * number)
        ours = [pupils.update(phase, optimizer, batch) for phase, optimizer in zip(phases, optimizers, strict=True)]
        if name == "mucss":
            assert ours[0][1]["pseudo"] > 0, "no prediction was a label, so that half of the equation was not looked at"
        torch.testing.assert_close([loss for loss, _ in ours], twin.update(batch), rtol=BOUND, atol=BOUND)
    theirs = twin.networks.state_dict()
    for key, values in objective.networks.state_dict().items():
        torch.testing.assert_close(
            values, theirs[key], rtol=BOUND, atol=BOUND, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_source_only_is_bit_for_bit_torchs_own_cross_entropy_and_adam() -> None:
    batch = pupils.make_batch()
    config = pupils.settings()
    plain = pupils.plain_segmentor(torch.float32)
    adam = torch.optim.Adam(plain.parameters(), lr=config.segmentation.lr)
    label = batch["label"].long()
    total = nn.functional.cross_entropy(plain(batch["image"].float() / 255), label, ignore_index=255, reduction="sum")
    loss = total / (label != 255).sum()
    loss.backward()
    adam.step()

    segmentor = pupils.plain_segmentor(torch.float32)
    (phase,) = build_objective("source_only", config, segmentor, pupils.alone).phases()
    ours, parts = pupils.update(phase, phase.optimizer(phase.module.parameters()), batch)
    assert torch.equal(ours, loss)
    assert parts == {}
    for one, other in zip(segmentor.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


# --------------------------------------------------------------------------------------------------- who learns what


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_phase_changes_the_networks_it_owns_and_no_other(name: str) -> None:
    objective = build_objective(name, pupils.settings(*SETTINGS), pupils.plain_segmentor(), pupils.alone)
    batch = pupils.make_batch()
    learned = set()
    for phase in objective.phases():
        before = copy.deepcopy(objective.networks)
        pupils.update(phase, phase.optimizer(phase.module.parameters()), batch)
        for key, network in objective.networks.items():
            changed = [
                not torch.equal(one, other)
                for one, other in zip(network.parameters(), before[key].parameters(), strict=True)
            ]
            assert all(changed) if key == phase.name else not any(changed), (phase.name, key)
            assert all(parameter.requires_grad for parameter in network.parameters())
            if key != phase.name and key not in learned:
                assert all(parameter.grad is None for parameter in network.parameters()), key
        learned.add(phase.name)
    assert learned == set(objective.networks)


def test_the_segmentor_learns_from_the_discriminator_only_through_the_target() -> None:
    """With every label void, what moves the segmentor is the adversarial term, and that is about target images."""
    objective = build_objective("output_space", pupils.settings(), pupils.plain_segmentor(), pupils.alone)
    phase = objective.phases()[0]
    batch = pupils.make_batch()
    batch["label"].fill_(pupils.VOID)

    def gradient(changed: str) -> Tensor:
        phase.module.zero_grad()
        phase.module(batch | {changed: 255 - batch[changed]})[0].backward()
        return next(phase.module.parameters()).grad.clone()

    unchanged = gradient("position")
    assert unchanged.abs().sum() > 0
    assert torch.equal(gradient("image"), unchanged)
    assert not torch.equal(gradient("target_image"), unchanged)


def test_phases_set_their_networks_to_training() -> None:
    for name in OBJECTIVES:
        objective = build_objective(name, pupils.settings(), pupils.plain_segmentor(), pupils.alone)
        objective.networks.eval()
        for phase in objective.phases():
            phase.module(pupils.make_batch())
        assert all(network.training for network in objective.networks.values()), name


def test_the_discriminator_looks_at_no_update_but_its_own() -> None:
    objective = build_objective("output_space", pupils.settings(), pupils.plain_segmentor(), pupils.alone)
    segmentor, discriminator = objective.phases()
    segmentor.module(pupils.make_batch())
    discriminator.module(pupils.make_batch())
    with pytest.raises(KeyError):
        discriminator.module(pupils.make_batch())


def test_only_the_discriminators_rate_is_fixed() -> None:
    objective = build_objective("output_space", pupils.settings(), pupils.plain_segmentor(), pupils.alone)
    assert {phase.name: phase.fixed_rate for phase in objective.phases()} == {"segmentor": False, "discriminator": True}


# --------------------------------------------------------------------------------------------------------- randomness


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_function_of_the_samples(name: str) -> None:
    """Dropout and turns come back with the sample's place, whatever else has been drawn in between."""
    objective = build_objective(name, pupils.settings(*SETTINGS), pupils.real_segmentor(), pupils.alone)
    module = objective.phases()[0].module
    batch = pupils.make_batch()
    first = module(batch)[0]
    torch.rand(7)
    assert torch.equal(module(batch)[0], first)
    assert not torch.equal(module(batch | {"position": batch["position"] + 1})[0], first)


def test_every_forward_of_an_update_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    remember: Callable[[nn.Module, Tensor], None] = lambda _, keys: seen.append(tuple(keys.tolist()))  # noqa: E731
    monkeypatch.setattr("drdg.methods.predictions.seed_randomness", remember)
    objective = build_objective("mucss", pupils.settings(), pupils.plain_segmentor(), pupils.alone)
    objective.phases()[0].module(pupils.make_batch())
    assert len(seen) == len(set(seen)) == 4
