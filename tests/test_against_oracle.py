"""Tests: networks, losses and whole training steps of ``drdg`` agree with the oracle's equations in float64.

The oracle is an independent statement; the only things taken from ``drdg`` here are the names of its parameters and,
because both sides must see the same random numbers, the functions that draw dropout masks and mixing numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import oracle
import pytest
import torch
from torch import Tensor, nn

from drdg import losses
from drdg.config import BerhuConfig, Config, CriticConfig, GeneratorConfig, load_config
from drdg.methods.drdg import Drdg
from drdg.methods.uses import (
    BACK_TO_SOURCE,
    BACK_TO_TARGET,
    CRITIC_PHASE,
    GENERATOR_PHASE,
    MIX_SOURCE,
    MIX_TARGET,
    TO_SOURCE,
    TO_TARGET,
)
from drdg.models.critic import Critic
from drdg.models.generator import DEPTH_PASS, Generator
from drdg.models.keyed import derive, keep_mask, sample_keys, uniform

WIDTH = 4
RATE = 0.5
SOURCE, TARGET = 256, 128
BOUND = 1e-9
RUN_SEED = 7

# Biases in front of a norm that subtracts them again. The released code and the oracle have them, ``drdg`` does not:
# their gradients are rounding (about 1e-12 here), which RMSprop blows up to steps of 5e-8 in float64 and of 10 learning
# rates in float32. The oracle's are random, so agreement of all else shows that leaving them out changes nothing.
IDLE = frozenset({"conv2.bias", "conv3.bias", "conv4.bias", "conv5.bias"})

MODES: list[oracle.DepthMode] = ["none", "own", "shared"]


# ------------------------------------------------------------------------------------------- one name for another


def generator_names(mode: oracle.DepthMode) -> dict[str, str]:
    """The oracle's name of each tensor of a generator -> the module's."""
    names = {"k": "residual", "head.weight": "image_head.weight", "head.bias": "image_head.bias"}
    if mode != "none":
        names |= {"depth_head.weight": "depth_head.weight", "depth_head.bias": "depth_head.bias"}
    blocks = {f"enc{level}": f"encoder.{level - 1}" for level in range(1, 8)}
    blocks |= {f"dec{level}": f"image_decoder.levels.{level - 1}" for level in range(1, 7)}
    if mode == "own":
        blocks |= {f"depth_dec{level}": f"depth_decoder.levels.{level - 1}" for level in range(1, 7)}
    for ours, theirs in blocks.items():
        names[f"{ours}.weight"] = f"{theirs}.conv.weight"
        if ours not in ("enc1", "enc7"):
            names |= {f"{ours}.gamma": f"{theirs}.norm.weight", f"{ours}.beta": f"{theirs}.norm.bias"}
    return names


def critic_names() -> dict[str, str]:
    """The oracle's name of each tensor of a critic -> the module's."""
    names = {"conv6.weight": "head.weight", "conv6.bias": "head.bias"}
    for level in range(1, 6):
        names[f"conv{level}.weight"] = f"convs.{level - 1}.weight"
        if level == 1:
            names["conv1.bias"] = "convs.0.bias"
        else:
            names |= {f"conv{level}.gamma": f"norms.{level - 1}.weight", f"conv{level}.beta": f"norms.{level - 1}.bias"}
    return names


def load(module: nn.Module, weights: oracle.Weights, names: Mapping[str, str]) -> None:
    """Give ``module`` the oracle's numbers; it must have exactly the tensors that the oracle has, but for the idle."""
    assert set(weights) - set(names) in (set(), IDLE)
    state = {theirs: weights[name].reshape(1) if name == "k" else weights[name] for name, theirs in names.items()}
    module.double().load_state_dict({name: w.clone() for name, w in state.items()}, strict=True)
    assert {name for name, _ in module.named_parameters()} == set(names.values())


def random_generator(mode: oracle.DepthMode, seed: int) -> oracle.Weights:
    return oracle.random_weights(oracle.generator_shapes(WIDTH, mode), seed)


def random_critic(seed: int) -> oracle.Weights:
    return oracle.random_weights(oracle.critic_shapes(WIDTH), seed)


def leaves(weights: oracle.Weights) -> oracle.Weights:
    return {name: w.clone().requires_grad_(True) for name, w in weights.items()}


def images(side: int, seed: int, batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, side, side, generator=random, dtype=torch.float64) * 2 - 1


def agree(found: Tensor, expected: Tensor, what: str) -> None:
    """To 1e-9 of the largest entry; 1e-12 for what is 0 but for rounding."""
    assert found.dtype == torch.float64, what
    assert found.numel() == expected.numel(), what
    worst = (found.detach().reshape(expected.shape) - expected.detach()).abs().max().item()
    bound = BOUND * expected.abs().max().item() + 1e-12
    assert worst <= bound, f"{what}: differs by {worst:.3g}, allowed {bound:.3g}"


def agree_gradients(module: nn.Module, names: Mapping[str, str], expected: oracle.Weights) -> None:
    """Every parameter that learns has the oracle's gradient, and no other has one."""
    parameters = dict(module.named_parameters())
    for name, theirs in names.items():
        found = parameters[theirs].grad
        if name not in expected:
            assert found is None, name
            continue
        assert found is not None, name
        agree(found, expected[name], f"gradient of {name}")
    for name in IDLE & set(expected):
        assert expected[name].abs().max().item() <= BOUND, name


# -------------------------------------------------------------------------------------------------------- networks


def masks(keys: Tensor, side: int, mode: oracle.DepthMode) -> list[Tensor]:
    """The dropout masks that the module draws from ``keys``, in the oracle's order."""
    shapes = oracle.mask_shapes(WIDTH, side, len(keys), mode)
    places = [derive(keys, level) for level in (4, 5, 6, 7)] + [derive(keys, 7 + level) for level in (1, 2, 3)]
    if mode != "none":
        places += [derive(derive(keys, DEPTH_PASS), 7 + level) for level in (1, 2, 3)]
    return [
        keep_mask(place, shape[1:], RATE).double() / (1 - RATE) for place, shape in zip(places, shapes, strict=True)
    ]


def built_generator(mode: oracle.DepthMode, output: int, weights: oracle.Weights) -> Generator:
    config = GeneratorConfig(
        width=WIDTH, dropout=RATE, depth_decoder="shared" if mode == "shared" else "own", learn_residual=True
    )
    module = Generator(config, output, depth=mode != "none")
    load(module, weights, generator_names(mode))
    return module


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("side", "output"), [(SOURCE, TARGET), (TARGET, SOURCE), (TARGET, TARGET), (TARGET, 224)])
def test_generator(mode: oracle.DepthMode, training: bool, side: int, output: int):
    weights = leaves(random_generator(mode, 20))
    module = built_generator(mode, output, weights).train(training)
    x = images(side, 21)
    mine, theirs = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    keys = sample_keys(3, torch.tensor([5, 6]), 1)
    drawn = masks(keys, side, mode) if training else None
    if drawn is not None:
        assert all(0 < mask.mean().item() < 2 for mask in drawn)

    image, depth = oracle.generator(weights, mine, (output, output), mode=mode, keep_masks=drawn)
    found = module(theirs, keys, depth=mode != "none")

    agree(found.image, image, "image")
    probe = torch.linspace(-1, 2, image.numel(), dtype=torch.float64).view_as(image)
    loss, other = (probe * image).sum(), (probe * found.image).sum()
    if depth is None:
        assert found.depth is None
    else:
        assert found.depth is not None
        agree(found.depth, depth, "depth")
        probe = torch.linspace(2, -1, depth.numel(), dtype=torch.float64).view_as(depth)
        loss, other = loss + (probe * depth).sum(), other + (probe * found.depth).sum()
    loss.backward()
    other.backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    agree(theirs.grad, mine.grad, "gradient of the input")
    agree_gradients(module, generator_names(mode), {n: w.grad for n, w in weights.items() if w.grad is not None})
    assert all(w.grad is not None for w in weights.values())


def test_generator_that_is_not_asked_for_depth_gives_the_same_image():
    weights = random_generator("own", 22)
    module = built_generator("own", TARGET, weights).train()
    x, keys = images(SOURCE, 23), sample_keys(3, torch.tensor([5, 6]), 1)
    drawn = masks(keys, SOURCE, "none")
    found = module(x, keys, depth=False)
    assert found.depth is None
    agree(found.image, oracle.generator(weights, x, (TARGET, TARGET), mode="none", keep_masks=drawn)[0], "image")


@pytest.mark.parametrize("eps", [1e-5, 0.8])
@pytest.mark.parametrize("side", [SOURCE, TARGET])
def test_critic(eps: float, side: int):
    weights = leaves(random_critic(24))
    module = Critic(CriticConfig(width=WIDTH, norm_eps=eps))
    load(module, weights, critic_names())
    x = images(side, 25)
    mine, theirs = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    expected, found = oracle.critic(weights, mine, eps), module(theirs)
    assert found.shape == (2, 1, oracle.critic_side(side), oracle.critic_side(side))
    agree(found, expected, "scores")
    probe = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view_as(expected)
    (probe * expected).sum().backward()
    (probe * found).sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    agree(theirs.grad, mine.grad, "gradient of the input")
    agree_gradients(module, critic_names(), {n: w.grad for n, w in weights.items() if w.grad is not None})


def test_parameter_counts_at_the_papers_width():
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        idle = sum(oracle.critic_shapes(64)[name][0] for name in IDLE)
        assert idle == 1_408
        assert size(Critic(CriticConfig())) == 6_962_369 - idle
        assert size(Generator(GeneratorConfig(), 512, depth=False)) == 41_828_996
        assert size(Generator(GeneratorConfig(), 512, depth=True)) == 68_311_557
        assert size(Generator(GeneratorConfig(depth_decoder="shared"), 512, depth=True)) == 41_831_045


# ---------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("scope", "live", "eps", "fraction"),
    list(itertools.product(["image", "batch"], [False, True], [0.0, 1e-4], [0.2, 0.05])),
)
def test_berhu(scope: str, live: bool, eps: float, fraction: float):
    config = BerhuConfig(scope=scope, live_threshold=live, additive_eps=eps, fraction=fraction)
    random = torch.Generator().manual_seed(26)
    truth = torch.rand(3, 1, 16, 16, generator=random, dtype=torch.float64)
    spread = torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64).view(3, 1, 1, 1)  # the last image is predicted exactly
    start = truth + spread * torch.randn(truth.shape, generator=random, dtype=torch.float64)
    mine, theirs = start.clone().requires_grad_(True), start.clone().requires_grad_(True)
    expected = oracle.berhu(mine - truth, fraction, scope, live, eps)
    found = losses.berhu_loss(theirs, truth, config)
    expected.backward()
    found.backward()
    agree(found, expected, "loss")
    assert mine.grad is not None
    assert theirs.grad is not None
    agree(theirs.grad, mine.grad, "gradient")


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("live", [False, True])
def test_berhu_of_nothing(scope: str, live: bool):
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    value = losses.berhu_loss(x, torch.zeros_like(x), BerhuConfig(scope=scope, live_threshold=live))
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("how", ["bilinear", "area", "legacy_nearest"])
@pytest.mark.parametrize(("old", "new"), [(256, 128), (128, 256), (448, 256), (256, 448)])
def test_resize_depth(how: str, old: int, new: int):
    z = images(old, 27)[:, :1]
    agree(losses.resize_depth(z, new, how), oracle.resize(z, new, new, how), "heights")


@pytest.mark.parametrize("eps", [1e-5, 0.8])
def test_gradient_penalty(eps: float):
    weights = leaves(random_critic(28))
    module = Critic(CriticConfig(width=WIDTH, norm_eps=eps))
    load(module, weights, critic_names())
    real, fake = images(TARGET, 29), 2 * images(TARGET, 30)
    alpha = torch.tensor([0.15, 0.8], dtype=torch.float64)
    expected = oracle.gradient_penalty(lambda x: oracle.critic(weights, x, eps), real, fake, alpha)
    found = losses.gradient_penalty(module, real, fake, alpha.view(2, 1, 1, 1))
    agree(found, expected, "penalty")
    expected.backward()
    found.backward()
    # The slope of the scores does not know the last shifts: conv6.bias, and conv5.beta but for the LeakyReLU's corner.
    for weight in (*weights.values(), *module.parameters()):
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    agree_gradients(module, critic_names(), {n: w.grad for n, w in weights.items() if w.grad is not None})
    assert {n for n, w in weights.items() if not w.grad.any()} == {"conv5.beta", "conv6.bias"}


# ------------------------------------------------------------------------------------------------------ whole steps

VARIANTS = {
    "drdg": [],
    "rdg": ["loss.depth_supervised=0", "loss.depth_cycle_consistency=0"],
    "only_dsl": ["loss.depth_cycle_consistency=0"],
    "only_dccl": ["loss.depth_supervised=0"],
}


def small(preset: str, overrides: Iterable[str] = ()) -> Config:
    return load_config(
        None,
        [
            f"preset={preset}",
            f"generator.width={WIDTH}",
            f"generator.dropout={RATE}",
            f"critic.width={WIDTH}",
            f"source.tile={SOURCE}",
            f"source.stride={SOURCE}",
            f"target.tile={TARGET}",
            f"target.stride={TARGET}",
            f"run.seed={RUN_SEED}",
            "gan.precision=float64",
            "gan.n_critic=2",
            *overrides,
        ],
    )


def recipe_of(config: Config) -> oracle.Recipe:
    """What the configuration asks for, said to the oracle."""
    loss, berhu = config.loss, config.loss.berhu
    depth = loss.depth_supervised > 0 or loss.depth_cycle_consistency > 0
    return oracle.Recipe(
        mode=config.generator.depth_decoder if depth else "none",
        adversarial=loss.adversarial,
        cycle=loss.cycle,
        depth_supervised=loss.depth_supervised,
        depth_cycle_consistency=loss.depth_cycle_consistency,
        gradient_penalty=loss.gradient_penalty,
        critic_eps=config.critic.norm_eps,
        fraction=berhu.fraction,
        scope=berhu.scope,
        live_threshold=berhu.live_threshold,
        additive_eps=berhu.additive_eps,
        depth_resize=loss.depth_resize,
        n_critic=config.gan.n_critic,
        generator_lr=config.gan.generator_lr,
        betas=config.gan.generator_betas,
        critic_lr=config.gan.critic_lr,
        learn_k=config.generator.learn_residual,
    )


@pytest.mark.parametrize(("preset", "expected"), [("paper", oracle.PAPER), ("authors", oracle.AUTHORS)])
def test_presets_are_the_two_recipes(preset: str, expected: oracle.Recipe):
    assert recipe_of(load_config(None, [f"preset={preset}"])) == expected


class Pair:
    """The same networks, once in ``drdg`` and once as the oracle's tensors, fed with the same batches and noise."""

    def __init__(self, config: Config):
        self.config, self.recipe = config, recipe_of(config)
        self.module = Drdg(config)
        mode = self.recipe.mode
        nets = oracle.Networks(
            random_generator(mode, 31), random_generator(mode, 32), random_critic(33), random_critic(34)
        )
        names = {"to_target": generator_names(mode), "to_source": generator_names(mode)}
        names |= {"source_critic": critic_names(), "target_critic": critic_names()}
        self.names = names
        self.state = oracle.Training(nets)
        for name, weights in self.weights().items():
            load(self.module.networks[name], weights, names[name])
        self.phases = self.module.phases()
        self.optimizers = [
            phase.optimizer([p for p in phase.module.parameters() if p.requires_grad]) for phase in self.phases
        ]

    def weights(self) -> dict[str, oracle.Weights]:
        nets = self.state.nets
        return {"to_target": nets.g_st, "to_source": nets.g_ts, "source_critic": nets.d_s, "target_critic": nets.d_t}

    def batch(self, step: int, size: int) -> tuple[dict[str, Tensor], oracle.Batch]:
        """Bytes and heights for ``drdg``; the same scaled to [-1, 1] for the oracle."""
        random = torch.Generator().manual_seed(1000 + step)
        source = torch.randint(0, 256, (size, 3, SOURCE, SOURCE), generator=random, dtype=torch.uint8)
        target = torch.randint(0, 256, (size, 3, TARGET, TARGET), generator=random, dtype=torch.uint8)
        z_s = torch.rand(size, 1, SOURCE, SOURCE, generator=random, dtype=torch.float64)
        z_t = torch.rand(size, 1, TARGET, TARGET, generator=random, dtype=torch.float64)
        if self.config.dsm.range == "symmetric":
            z_s, z_t = 2 * z_s - 1, 2 * z_t - 1
        theirs = {
            "source_image": source,
            "target_image": target,
            "position": torch.arange(step * size, (step + 1) * size),
        }
        if self.recipe.mode != "none":
            theirs |= {"source_dsm": z_s, "target_dsm": z_t}

        def scale(x: Tensor) -> Tensor:
            return (x.double() / 255 - 0.5) / 0.5

        return theirs, oracle.Batch(scale(source), scale(target), z_s, z_t)

    def noise(self, position: Tensor) -> tuple[oracle.CriticNoise, oracle.GeneratorNoise]:
        keys = sample_keys(RUN_SEED, position, CRITIC_PHASE)
        critic = oracle.CriticNoise(
            uniform(derive(keys, MIX_SOURCE), (1,), torch.float64).reshape(-1),
            uniform(derive(keys, MIX_TARGET), (1,), torch.float64).reshape(-1),
            masks(derive(keys, TO_TARGET), SOURCE, "none"),
            masks(derive(keys, TO_SOURCE), TARGET, "none"),
        )
        keys = sample_keys(RUN_SEED, position, GENERATOR_PHASE)
        forth: oracle.DepthMode = self.recipe.mode if self.recipe.depth_supervised else "none"
        back: oracle.DepthMode = self.recipe.mode if self.recipe.depth_cycle_consistency else "none"
        generator = oracle.GeneratorNoise(
            masks(derive(keys, TO_TARGET), SOURCE, forth),
            masks(derive(keys, TO_SOURCE), TARGET, forth),
            masks(derive(keys, BACK_TO_SOURCE), TARGET, back),
            masks(derive(keys, BACK_TO_TARGET), SOURCE, back),
        )
        return critic, generator


def check_parts(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], phase: str) -> None:
    """``found`` is what ``drdg`` logs."""
    if phase == "critic":
        renamed = {f"{long}_critic": expected[f"wasserstein_{s}"] for long, s in (("source", "s"), ("target", "t"))}
        renamed |= {f"{long}_penalty": expected[f"penalty_{s}"] for long, s in (("source", "s"), ("target", "t"))}
    else:
        renamed = {name: value for name, value in expected.items() if name != "total"}
    assert set(found) == set(renamed)
    for name, value in renamed.items():
        agree(found[name], value, name)


CASES = [(preset, variant, 2) for preset in ("paper", "authors") for variant in VARIANTS] + [("authors", "drdg", 1)]


@pytest.mark.parametrize(("preset", "variant", "size"), CASES)
def test_losses_and_gradients_of_both_phases(preset: str, variant: str, size: int):
    pair = Pair(small(preset, [*VARIANTS[variant], "generator.learn_residual=true"]))
    batch, mine = pair.batch(0, size)
    critic_noise, generator_noise = pair.noise(batch["position"])
    critic, generator = pair.phases
    networks = pair.module.networks

    expected, of_s, of_t = oracle.critic_gradients(pair.state.nets, mine, critic_noise, pair.recipe)
    loss, parts = critic.module(batch)
    loss.backward()
    agree(loss, expected["total"], "critic loss")
    check_parts(parts, expected, "critic")
    agree_gradients(networks["source_critic"], critic_names(), of_s)
    agree_gradients(networks["target_critic"], critic_names(), of_t)
    assert all(p.grad is None for name in ("to_target", "to_source") for p in networks[name].parameters())

    networks.zero_grad(set_to_none=True)
    expected, of_st, of_ts = oracle.generator_gradients(pair.state.nets, mine, generator_noise, pair.recipe)
    loss, parts = generator.module(batch)
    loss.backward()
    agree(loss, expected["total"], "generator loss")
    check_parts(parts, expected, "generator")
    agree_gradients(networks["to_target"], pair.names["to_target"], of_st)
    agree_gradients(networks["to_source"], pair.names["to_source"], of_ts)
    critics = [p for name in ("source_critic", "target_critic") for p in networks[name].parameters()]
    assert all(p.grad is None for p in critics)
    assert all(p.requires_grad for p in critics)


@pytest.mark.parametrize("preset", ["paper", "authors"])
@pytest.mark.parametrize(("variant", "size"), [("drdg", 2), ("rdg", 1), ("only_dsl", 1), ("only_dccl", 1)])
def test_whole_training_steps(preset: str, variant: str, size: int):
    """Three iterations: both phases, the critics alone, both again (so that the optimisers' memories count)."""
    pair = Pair(small(preset, VARIANTS[variant]))
    start = {name: dict(weights) for name, weights in pair.weights().items()}
    for step in range(3):
        batch, mine = pair.batch(step, size)
        report = oracle.train_step(pair.state, mine, *pair.noise(batch["position"]), pair.recipe)
        ran = []
        for phase, optimizer in zip(pair.phases, pair.optimizers, strict=True):
            if step % phase.every:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss, parts = phase.module(batch)
            loss.backward()
            optimizer.step()
            agree(loss, report[phase.name]["total"], f"{phase.name} loss at step {step}")
            check_parts(parts, report[phase.name], phase.name)
            ran.append(phase.name)
        assert ran == list(report) == (["critic", "generator"] if step != 1 else ["critic"])
        for name, weights in pair.weights().items():
            parameters = dict(pair.module.networks[name].named_parameters())
            for ours, theirs in pair.names[name].items():
                worst = (parameters[theirs].detach().reshape(weights[ours].shape) - weights[ours]).abs().max().item()
                assert worst <= BOUND, f"{name} {ours} after step {step}: differs by {worst:.3g}"
    for name, weights in pair.weights().items():
        still = {ours for ours in pair.names[name] if torch.equal(weights[ours], start[name][ours])}
        # k is fixed, and what a critic adds to every score cancels between real and fake.
        assert still == ({"k"} if name.startswith("to_") else {"conv6.bias"})
