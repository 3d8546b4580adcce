"""DualGAN agrees with its equations in float64."""

from __future__ import annotations

import oracle
import oracle_translators as plain
import pytest
import torch
from translator_pairs import (
    CRITICS,
    GENERATORS,
    TranslatorPair,
    check_translation,
    check_who_learns,
    make_batch,
    narrow,
)

from drdg.config import Config, load_config
from drdg.methods import build_translator
from drdg.methods.uses import CRITIC_PHASE, MIX_SOURCE, MIX_TARGET
from drdg.models.keyed import derive, sample_keys, uniform

WIDTH, CRITIC_WIDTH = 2, 2  # of translator_pairs.narrow


def generator_names() -> dict[str, str]:
    """The oracle's name of each tensor -> the module's."""
    names = {"head.weight": "head.weight", "head.bias": "head.bias"}
    blocks = {f"enc{level}": f"encoder.{level - 1}" for level in range(1, 8)}
    blocks |= {f"dec{level}": f"decoder.levels.{level - 1}" for level in range(1, 7)}
    for ours, theirs in blocks.items():
        names[f"{ours}.weight"] = f"{theirs}.conv.weight"
        if ours not in ("enc1", "enc7"):
            names |= {f"{ours}.gamma": f"{theirs}.norm.weight", f"{ours}.beta": f"{theirs}.norm.bias"}
    return names


def critic_names() -> dict[str, str]:
    names = {"conv6.weight": "head.weight", "conv6.bias": "head.bias", "conv1.bias": "convs.0.bias"}
    for level in range(1, 6):
        names[f"conv{level}.weight"] = f"convs.{level - 1}.weight"
        if level > 1:
            names |= {f"conv{level}.gamma": f"norms.{level - 1}.weight", f"conv{level}.beta": f"norms.{level - 1}.bias"}
    return names


def make_pair(config: Config) -> TranslatorPair:
    shapes = plain.unet_shapes(WIDTH), plain.dual_critic_shapes(CRITIC_WIDTH)
    return TranslatorPair(
        "dualgan", config, (plain.unet, plain.dual_critic), shapes, (generator_names(), critic_names())
    )


@pytest.mark.parametrize(
    ("settings", "steps"),
    [(["gan.n_critic=1"], 2), (["gan.n_critic=2"], 3), (["source.tile=128", "target.tile=256"], 1)],
)
def test_whole_training_steps(settings: list[str], steps: int) -> None:
    config = narrow(*settings)
    pair = make_pair(config)
    state, knobs, gan = pair.state, config.dualgan, config.gan

    def rmsprop(
        weights: oracle.Weights, gradients: oracle.Weights, moments: oracle.Moments, lr: float
    ) -> oracle.Weights:
        return oracle.rmsprop_step(weights, gradients, moments, lr, alpha=0.9)

    for step in range(steps):
        batch = make_batch(config, step)
        source, target = pair.images(batch)
        keys = sample_keys(config.run.seed, batch["position"], CRITIC_PHASE)
        mixing = tuple(uniform(derive(keys, tag), (1,), torch.float64).flatten() for tag in (MIX_SOURCE, MIX_TARGET))
        fakes = tuple(fake.detach() for fake in state.translate(source, target))
        learning = state.learning(CRITICS)
        parts = plain.wasserstein_critics(learning, (source, target), fakes, mixing, knobs.gradient_penalty)
        learning.follow(parts["total"], CRITICS, lambda *given: rmsprop(*given, gan.critic_lr))
        state.weights = learning.weights
        pair.update("critic", batch, parts)
        if step % gan.n_critic == 0:
            learning = state.learning(GENERATORS)
            parts = plain.wasserstein_generators(learning, source, target, knobs.cycle)
            learning.follow(parts["total"], GENERATORS, lambda *given: rmsprop(*given, gan.generator_lr))
            state.weights = learning.weights
            pair.update("generator", batch, parts)
        pair.check_weights(f"after step {step}")
    assert pair.module.lanes == {}


def test_every_parameter_but_the_scores_shift_learns_in_its_own_phase() -> None:
    # What a critic adds to every score cancels between real and fake.
    check_who_learns("dualgan", narrow(), lambda network: {"head.bias"} if network in CRITICS else set())


def test_translation() -> None:
    check_translation("dualgan", narrow(), plain.unet, generator_names())


def test_the_u_net_is_residualgans_without_its_residual() -> None:
    config = load_config()
    with torch.device("meta"):
        ours = build_translator("dualgan", config).networks
        residual = build_translator("drdg", load_config(None, ["loss.depth_supervised=0"])).networks
    shapes = {name.replace("image_", ""): p.shape for name, p in residual["to_source"].named_parameters()}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("depth") and name != "residual"}
    assert {name: p.shape for name, p in ours["to_source"].named_parameters()} == shapes
    assert {n: p.shape for n, p in ours["source_critic"].named_parameters()} == {
        n: p.shape for n, p in residual["source_critic"].named_parameters()
    }
