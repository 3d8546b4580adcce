"""What objectives are made of: the discriminator, pseudo-labels, turns, the ramp, and what happens without labels."""

from __future__ import annotations

import math

import numpy as np
import oracle_objectives as oracle
import pupils
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from drdg.losses import cross_entropy_loss, domain_loss
from drdg.methods import OBJECTIVES, build_objective
from drdg.methods.mucss import quarter_turns, ramp, turn
from drdg.methods.objective import VOID
from drdg.methods.predictions import count_classes, pseudo_labels
from drdg.models.output_discriminator import OutputDiscriminator

# ------------------------------------------------------------------------------------------------------ discriminator


def test_the_discriminator_has_the_released_codes_size() -> None:
    assert sum(parameter.numel() for parameter in OutputDiscriminator(6, 64).parameters()) == 2_767_809


@pytest.mark.parametrize("side", [32, 64, 100])
def test_the_discriminator_gives_a_logit_for_every_pixel(side: int) -> None:
    torch.manual_seed(0)
    discriminator = OutputDiscriminator(3, 2).double()
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    logits = discriminator(x)
    assert logits.shape == (2, 1, side, side)
    torch.testing.assert_close(logits, oracle.discriminate(dict(discriminator.named_parameters()), x))


def test_output_space_has_a_discriminator_for_the_segmentors_classes_and_type() -> None:
    objective = build_objective("output_space", pupils.settings(), pupils.plain_segmentor(torch.float32), pupils.alone)
    first = objective.networks["discriminator"].convs[0].weight
    assert first.shape == (4, pupils.CLASSES, 4, 4)
    assert first.dtype == torch.float32


def test_counting_classes_leaves_the_segmentor_as_it_is() -> None:
    segmentor = pupils.real_segmentor().train()
    before = {name: value.clone() for name, value in segmentor.state_dict().items()}
    assert count_classes(segmentor, 64) == pupils.CLASSES
    assert segmentor.training
    assert all(module.training for module in segmentor.modules())
    assert all(torch.equal(value, before[name]) for name, value in segmentor.state_dict().items())


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=5), st.sampled_from([0, 1]))
def test_the_domain_loss_is_minus_the_logarithm_of_the_labels_probability(scores: list[float], label: int) -> None:
    sign = 1 if label else -1
    expected = sum(math.log1p(math.exp(-sign * score)) for score in scores) / len(scores)
    loss = domain_loss(torch.tensor(scores, dtype=torch.float64), float(label))
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


# ------------------------------------------------------------------------------------------------------ pseudo-labels


def test_a_likely_class_is_a_label_and_others_are_void() -> None:
    odds = torch.tensor([[8.0, 1, 1], [1, 1, 8], [4, 3, 3], [1, 18, 1]])  # 0.8, 0.8, 0.4, 0.9 at most
    logits = odds.log().T[None, :, :, None]
    assert pseudo_labels(logits, 0.7).flatten().tolist() == [0, 2, VOID, 1]
    assert pseudo_labels(logits, 0.85).flatten().tolist() == [VOID, VOID, VOID, 1]
    assert pseudo_labels(logits, 0.0).flatten().tolist() == [0, 2, 0, 1]


def test_a_probability_must_exceed_the_confidence() -> None:
    assert pseudo_labels(torch.zeros(1, 2, 1, 1), 0.5).item() == VOID


def test_pseudo_labels_carry_no_gradient() -> None:
    assert not pseudo_labels(torch.rand(1, 3, 2, 2, requires_grad=True), 0.1).requires_grad


def test_without_a_likely_prediction_pseudo_labels_count_nothing() -> None:
    settings = pupils.settings("mucss.confidence=0.99999999", "mucss.rotation=0", "mucss.original=0")
    batch = pupils.make_batch()
    gradients, losses = {}, {}
    for name in ("mucss", "source_only"):
        (phase,) = build_objective(name, settings, pupils.plain_segmentor(), pupils.alone).phases()
        losses[name], parts = phase.module(batch)
        losses[name].backward()
        gradients[name] = [parameter.grad for parameter in phase.module.parameters()]
        if name == "mucss":
            assert parts["pseudo"] == 0
    torch.testing.assert_close(losses["mucss"], losses["source_only"], rtol=1e-14, atol=0)
    torch.testing.assert_close(gradients["mucss"], gradients["source_only"], rtol=1e-12, atol=1e-15)


# --------------------------------------------------------------------------------------------------- turns and the ramp


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_each_image_is_turned_by_its_own_quarters(dtype: torch.dtype) -> None:
    images = (torch.rand(5, 2, 6, 6, dtype=torch.float64) * 255).to(dtype)
    quarters = [1, 2, 3, 2, 1]
    turned = turn(images, torch.tensor(quarters))
    assert turned.dtype == dtype
    for image, times, result in zip(images.numpy(), quarters, turned.numpy(), strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, times, axes=(1, 2)))


def test_turns_are_a_function_of_seed_and_place_and_equally_frequent() -> None:
    place = torch.arange(3000)
    turns = quarter_turns(3, place)
    assert torch.equal(turns, torch.cat([quarter_turns(3, part) for part in place.split(7)]))
    assert not torch.equal(turns, quarter_turns(4, place))
    counts = turns.bincount(minlength=4)
    assert counts[0] == 0
    # Four standard deviations of a binomial with 3000 draws and p = 1/3 are 103.
    assert all(abs(int(count) - 1000) < 104 for count in counts[1:]), counts


def test_a_segmentor_that_does_not_care_for_turns_has_no_rotation_loss() -> None:
    torch.manual_seed(0)
    pixelwise = nn.Conv2d(3, pupils.CLASSES, 1).double()
    (phase,) = build_objective("mucss", pupils.settings(), pixelwise, pupils.alone).phases()
    assert phase.module(pupils.make_batch())[1]["rotation"] < 1e-25
    (phase,) = build_objective("mucss", pupils.settings(), pupils.plain_segmentor(), pupils.alone).phases()
    assert phase.module(pupils.make_batch())[1]["rotation"] > 1e-6


@pytest.mark.parametrize(
    ("done", "weight"),
    [(0.0, 0.0067379469991), (0.25, 0.0600546678953), (0.5, 0.2865047968602), (0.9, 0.9512294245007), (1.0, 1.0)],
)
def test_the_ramp(done: float, weight: float) -> None:
    assert ramp(torch.tensor(done, dtype=torch.float64)).item() == pytest.approx(weight, rel=1e-10)


def test_the_ramp_weighs_what_is_learned_from_predictions_and_nothing_else() -> None:
    (phase,) = build_objective(
        "mucss", pupils.settings("mucss.confidence=0.3"), pupils.plain_segmentor(), pupils.alone
    ).phases()
    for done in (0.0, 0.5, 1.0):
        loss, parts = phase.module(pupils.make_batch(done=done))
        assert parts["ramp"].item() == pytest.approx(math.exp(-5 * (1 - done) ** 2), rel=1e-12)
        predicted = parts["pseudo"] + parts["rotation"]
        assert predicted > 0
        expected = parts["cross_entropy"] + parts["original"] + parts["ramp"] * predicted
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("off", "forwards", "terms"),
    [
        ((), 4, {"cross_entropy", "original", "pseudo", "rotation"}),
        (("original",), 3, {"cross_entropy", "pseudo", "rotation"}),
        (("rotation",), 3, {"cross_entropy", "original", "pseudo"}),
        (("pseudo",), 4, {"cross_entropy", "original", "rotation"}),
        (("pseudo", "rotation"), 2, {"cross_entropy", "original"}),
    ],
)
def test_a_term_of_weight_0_costs_nothing(off: tuple[str, ...], forwards: int, terms: set[str]) -> None:
    segmentor = pupils.plain_segmentor()
    calls: list[object] = []
    segmentor.register_forward_hook(lambda *_: calls.append(None))
    (phase,) = build_objective(
        "mucss", pupils.settings(*(f"mucss.{term}=0" for term in off)), segmentor, pupils.alone
    ).phases()
    _, parts = phase.module(pupils.make_batch())
    assert len(calls) == forwards
    assert parts.keys() == terms | {"ramp"}


# -------------------------------------------------------------------------------------------------------- no labels


def test_a_batch_of_void_alone_has_no_loss_and_a_gradient_of_zeros() -> None:
    logits = torch.rand(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy_loss(logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8), VOID, pupils.alone)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_void_alone_gives_finite_gradients_to_every_parameter(name: str) -> None:
    objective = build_objective(name, pupils.settings(), pupils.plain_segmentor(), pupils.alone)
    batch = pupils.make_batch()
    batch["label"].fill_(VOID)
    for phase in objective.phases():
        loss, parts = phase.module(batch)
        loss.backward()
        assert math.isfinite(loss.item())
        assert all(part.isfinite() for part in parts.values())
        assert all(grad_is_finite(parameter) for parameter in phase.module.parameters())
    if name == "source_only":
        assert loss.item() == 0


def grad_is_finite(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.isfinite().all())


def test_more_pixels_are_counted_than_float32_can_count() -> None:
    """A rank's count is averaged in float64: float32 rounds 2**24 + 1 to 2**24."""
    seen: list[Tensor] = []

    def average(values: Tensor) -> Tensor:
        seen.append(values)
        return values

    cross_entropy_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8), VOID, average)
    assert seen[0].dtype == torch.float64


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_stays_on_the_networks_device_and_no_number_is_fetched_from_it(name: str) -> None:
    """torch's ``meta`` device has no numbers: to ask for one, or to mix devices, is an error there."""
    objective = build_objective(name, pupils.settings(), pupils.plain_segmentor().to("meta"), pupils.alone)
    batch = {key: values.to("meta") for key, values in pupils.make_batch().items()}
    for phase in objective.phases():
        loss, parts = phase.module(batch)
        loss.backward()
        assert {values.device.type for values in (loss, *parts.values())} == {"meta"}


def test_one_labelled_pixel_among_all_ranks_counts_whole() -> None:
    """With four ranks and one pixel the average count is a quarter; the rank's loss is four times the pixel's, so that
    the average over ranks is the pixel's.
    """
    label = torch.tensor([[[1, VOID]]], dtype=torch.uint8)
    loss = cross_entropy_loss(torch.zeros(1, 2, 1, 2), label, VOID, lambda count: count / 4)
    assert loss.item() / 4 == pytest.approx(math.log(2), rel=1e-6)
