"""Benjdira's translator agrees with its equations in float64."""

from __future__ import annotations

import oracle
import oracle_translators as plain
import pytest
from translator_pairs import (
    CRITICS,
    GENERATORS,
    TranslatorPair,
    check_translation,
    check_who_learns,
    make_batch,
    narrow,
)

from drdg.config import Config

WIDTH, CRITIC_WIDTH = 3, 2  # of translator_pairs.narrow


def generator_names() -> dict[str, str]:
    """The oracle's name of each tensor -> the module's."""
    names = {"out.weight": "head.weight", "out.bias": "head.bias"}
    blocks = {f"down{number + 1}": f"downs.{number}" for number in range(4)}
    blocks |= {f"up{number + 1}": f"ups.{number}" for number in range(3)}
    for ours, theirs in blocks.items():
        names |= {f"{ours}.weight": f"{theirs}.conv.weight", f"{ours}.bias": f"{theirs}.conv.bias"}
        names |= {f"{ours}.gamma": f"{theirs}.norm.weight", f"{ours}.beta": f"{theirs}.norm.bias"}
    return names


def critic_names() -> dict[str, str]:
    names = {"conv5.weight": "head.weight", "conv5.bias": "head.bias"}
    for level in range(1, 5):
        names |= {f"conv{level}.{part}": f"convs.{level - 1}.{part}" for part in ("weight", "bias")}
        if level > 1:
            names |= {f"conv{level}.gamma": f"norms.{level - 1}.weight", f"conv{level}.beta": f"norms.{level - 1}.bias"}
    return names


def make_pair(config: Config) -> TranslatorPair:
    shapes = plain.small_unet_shapes(WIDTH), plain.patch16_shapes(CRITIC_WIDTH)
    return TranslatorPair(
        "benjdira", config, (plain.small_unet, plain.patch16), shapes, (generator_names(), critic_names())
    )


@pytest.mark.parametrize(
    ("settings", "steps"),
    [([], 2), (["gan.n_critic=2", "benjdira.identity=0"], 3), (["source.tile=128", "target.tile=256"], 1)],
)
def test_whole_training_steps(settings: list[str], steps: int) -> None:
    config = narrow(*settings)
    pair = make_pair(config)
    state, knobs, gan = pair.state, config.benjdira, config.gan

    def adam(weights: oracle.Weights, gradients: oracle.Weights, moments: oracle.Moments, lr: float) -> oracle.Weights:
        return oracle.adam_step(weights, gradients, moments, lr, gan.generator_betas)

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
        learning = state.learning(CRITICS)
        parts = plain.least_squares_critics(learning, (source, target), fakes)
        learning.follow(parts["total"], CRITICS, lambda *given: adam(*given, gan.critic_lr))
        state.weights = learning.weights
        pair.update("critic", batch, parts)
        pair.check_weights(f"after step {step}")
    assert pair.module.lanes == {}


def test_every_parameter_learns_in_its_own_phase() -> None:
    check_who_learns("benjdira", narrow())


def test_translation() -> None:
    check_translation("benjdira", narrow(), plain.small_unet, generator_names())


def test_one_score_for_sixteen_pixels() -> None:
    pair = make_pair(narrow())
    source, _ = pair.images(make_batch(pair.config, 0))
    assert pair.module.networks["source_critic"](source).shape == (2, 1, 8, 8)
