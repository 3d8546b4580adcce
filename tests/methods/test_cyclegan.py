"""CycleGAN agrees with its equations in float64, and its pool is a function of the sample stream."""

from __future__ import annotations

import oracle
import oracle_translators as plain
import pytest
import torch
from oracle_translators import History
from translator_pairs import (
    CRITICS,
    GENERATORS,
    TranslatorPair,
    check_translation,
    check_who_learns,
    make_batch,
    make_part,
    narrow,
)

from drdg.config import Config, load_config
from drdg.methods import build_translator, needs_dsm
from drdg.methods.uses import SOURCE_POOL, TARGET_POOL
from drdg.models.keyed import sample_keys, uniform

BLOCKS, WIDTH, CRITIC_WIDTH = 2, 3, 2  # of translator_pairs.narrow


def generator_names() -> dict[str, str]:
    """The oracle's name of each tensor -> the module's."""
    after = 9 + BLOCKS
    places = {"in": 0, "down1": 3, "down2": 6, "up1": after, "up2": after + 3, "out": after + 6}
    names = {f"{ours}.weight": f"layers.{place}.weight" for ours, place in places.items()}
    for block in range(BLOCKS):
        names |= {
            f"block{block + 1}{half}.weight": f"layers.{9 + block}.{which}.weight"
            for half, which in (("a", "first"), ("b", "second"))
        }
    return names | {"out.bias": f"layers.{after + 6}.bias"}


def critic_names() -> dict[str, str]:
    names = {f"conv{level}.weight": f"convs.{level - 1}.weight" for level in range(1, 5)}
    return names | {"conv1.bias": "convs.0.bias", "conv5.weight": "head.weight", "conv5.bias": "head.bias"}


def make_pair(config: Config) -> TranslatorPair:
    shapes = plain.resnet_shapes(WIDTH, BLOCKS), plain.patch70_shapes(CRITIC_WIDTH)
    return TranslatorPair(
        "cyclegan", config, (plain.resnet, plain.patch70), shapes, (generator_names(), critic_names())
    )


def history(config: Config, tag: int) -> History:
    """The oracle's pool, with the random numbers that ``drdg`` draws."""

    def numbers(position: int) -> tuple[float, float]:
        key = sample_keys(config.run.seed, torch.tensor([position]), tag)
        swap, entry = uniform(key, (2,), torch.float64)[0].tolist()
        return swap, entry

    size = config.gan.batch_size
    return History(size, max(1, config.cyclegan.pool // size), numbers)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ([], 1),
        (["cyclegan.pool=4", "gan.n_critic=2"], 5),
        (["cyclegan.pool=0", "cyclegan.identity=0", "gan.batch_size=1"], 2),
        (["source.tile=128", "target.tile=256", "gan.batch_size=1"], 1),
    ],
)
def test_whole_training_steps(settings: list[str], steps: int) -> None:
    config = narrow(*settings)
    pair = make_pair(config)
    state, knobs, gan = pair.state, config.cyclegan, config.gan
    pools = history(config, SOURCE_POOL), history(config, TARGET_POOL)

    def adam(weights: oracle.Weights, gradients: oracle.Weights, moments: oracle.Moments, lr: float) -> oracle.Weights:
        return oracle.adam_step(weights, gradients, moments, lr, gan.generator_betas)

    swapped = 0
    for step in range(steps):
        batch = make_batch(config, step)
        source, target = pair.images(batch)
        fakes = state.translate(source, target)
        if step % gan.n_critic == 0:
            learning = state.learning(GENERATORS)
            parts, fakes = plain.least_squares_generators(learning, source, target, knobs.cycle, knobs.identity)
            learning.follow(parts["total"], GENERATORS, lambda *given: adam(*given, gan.generator_lr))
            state.weights = learning.weights
            pair.update("generator", batch, parts)
        shown = fakes
        if knobs.pool:
            positions = batch["position"].tolist()
            shown = pools[0].show(fakes[0], positions), pools[1].show(fakes[1], positions)
            swapped += not torch.equal(shown[0], fakes[0])
        learning = state.learning(CRITICS)
        parts = plain.least_squares_critics(learning, (source, target), shown)
        learning.follow(parts["total"], CRITICS, lambda *given: adam(*given, gan.critic_lr))
        state.weights = learning.weights
        pair.update("critic", batch, parts)
        pair.check_weights(f"after step {step}")
    assert bool(swapped) == (steps == 5)  # so that the long case has seen earlier images


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_pool_does_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    config = narrow("gan.batch_size=4", "cyclegan.pool=8", "cyclegan.blocks=1")
    whole = build_translator("cyclegan", config)
    shares = [build_translator("cyclegan", config) for _ in range(ranks)]
    for translator in (whole, *shares):
        translator.networks.load_state_dict(whole.networks.state_dict())
        translator.networks.double()
    critics = [translator.phases()[1].module for translator in (whole, *shares)]
    for step in range(5):
        batch = make_batch(config, step)
        _, expected = critics[0](batch)
        parts = [critic(make_part(batch, rank, ranks))[1] for rank, critic in enumerate(critics[1:])]
        for name, value in expected.items():
            mean = torch.stack([part[name] for part in parts]).mean()
            assert abs(mean - value).item() <= 1e-12
    assert set(whole.lanes) == {"source_pool", "source_pooled", "target_pool", "target_pooled"}
    for name, lanes in whole.lanes.items():
        assert len(lanes) == 4
        together = torch.cat([share.lanes[name] for share in shares])
        # A convolution's sums may be in another order for another batch size.
        assert (together - lanes).abs().max().item() <= 1e-12, name


def test_every_parameter_learns_in_its_own_phase() -> None:
    check_who_learns("cyclegan", narrow())


def test_translation() -> None:
    check_translation("cyclegan", narrow(), plain.resnet, generator_names())


def test_parameter_counts_at_the_released_codes_width() -> None:
    config = load_config()
    with torch.device("meta"):
        networks = build_translator("cyclegan", config).networks
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    # The released code's 11.378 M and 2.765 M hold a bias before each norm as well.
    idle_generator = 64 + 128 + 256 + 9 * 2 * 256 + 128 + 64
    idle_critic = 128 + 256 + 512
    assert sizes["to_target"] == sizes["to_source"] == 11_378_179 - idle_generator
    assert sizes["source_critic"] == sizes["target_critic"] == 2_764_737 - idle_critic


def test_a_critic_sees_70_by_70_pixels() -> None:
    critic = build_translator("cyclegan", narrow()).networks["target_critic"].double()
    image = torch.rand(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    # Norms look at the whole image: without them, what one score depends on is what the convolutions reach.
    for place in (1, 2, 3):
        critic.norms[place] = torch.nn.Identity()
    scores = critic(image)
    assert scores.shape == (1, 1, 30, 30)
    scores[0, 0, 15, 15].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (70, 70)


def test_a_pool_refuses_micro_batches() -> None:
    with pytest.raises(ValueError, match=r"gan\.micro_batch=1 .* cyclegan\.pool=0"):
        build_translator("cyclegan", narrow("gan.micro_batch=1"))
    build_translator("cyclegan", narrow("gan.micro_batch=1", "cyclegan.pool=0"))


def test_micro_batches_of_a_method_without_pool_show_each_pair_its_own_translation() -> None:
    config = narrow("cyclegan.pool=0")
    whole, parted = (make_pair(config) for _ in range(2))
    batch = make_batch(config, 0)
    halves = [make_part(batch, half, 2) for half in range(2)]
    for phase in ("generator", "critic"):
        _, expected = whole.phases[phase].module(batch)
        found = [parted.phases[phase].module(half)[1] for half in halves]
        for name, value in expected.items():
            assert abs(torch.stack([part[name] for part in found]).mean() - value).item() <= 1e-12
        if phase == "generator":  # learning in between must not change what the critics are shown
            for pair in (whole, parted):
                for parameter in pair.phases[phase].module.parameters():
                    torch.nn.init.zeros_(parameter)


def test_only_drdg_with_depth_needs_heights() -> None:
    without = narrow("loss.depth_supervised=0", "loss.depth_cycle_consistency=0")
    assert needs_dsm("drdg", narrow())
    assert not needs_dsm("drdg", without)
    assert not any(needs_dsm(name, narrow()) for name in ("cyclegan", "benjdira", "dualgan"))
