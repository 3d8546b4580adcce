"""Training of the segmentor on real shards: what it learns, that it continues bit for bit, and how it ends."""

from __future__ import annotations

import errno
import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drdg.config import digest, load_config
from drdg.datasets import VOID
from drdg.losses import cross_entropy_loss
from drdg.methods import source_only
from drdg.models.exports import read_weights
from drdg.models.segmentor import load_segmentor
from drdg.shards.writer import finish, shard_name, write_shard
from drdg.training import writer
from drdg.training.checkpoint import save_checkpoint
from drdg.training.journal import Journal
from drdg.training.segmentation import train_segmentor

CLASSES = ("dark", "bright", "never")
TILES = 10
SIDE = 40


def ignore(values, step):
    """A log that keeps nothing."""


def write_shards(folder, *, void_share=0.05, void_tiles=(), side=SIDE, tiles=TILES):
    """Tiles of smooth blobs, labelled by their brightness."""
    generator = np.random.default_rng(1)
    folder.mkdir()
    samples = []
    for number in range(tiles):
        coarse = generator.integers(0, 2, (2, 2))
        ids = np.kron(coarse, np.ones((side // 2, side // 2))).astype(np.uint8)
        image = np.clip(ids[..., None] * 150 + generator.integers(0, 90, (side, side, 3)), 0, 255).astype(np.uint8)
        ids[generator.random(ids.shape) < (1.0 if number in void_tiles else void_share)] = VOID
        samples.append({"__key__": f"t{number:03d}", "image.npy": image, "label.npy": ids, "json": {"top": "1"}})
    plan = digest([side, tiles, void_share, void_tiles])
    write_shard(folder / shard_name(0), samples, plan)
    domain = {"archive": "town", "tile": side, "classes": list(CLASSES), "dsm": False, "label": True, "gsd_m": None}
    finish(folder, [shard_name(0)], plan, {"domain": domain})
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def config(**changes):
    knobs = {
        "architecture": "PSPNet",  # with this encoder the smallest that has batch norms and dropout
        "encoder": "tu-test_resnet",
        "encoder_weights": "none",
        "batch_size": 4,
        "crop": 32,
        "lr": 3e-3,
        "iterations": 6,
        "workers": 0,
        "log_every": 2,
        "schedule.patience": 0,
        **changes,
    }
    seed = knobs.pop("seed", 0)
    return load_config(None, [f"segmentation.{key}={value}" for key, value in knobs.items()] + [f"run.seed={seed}"])


def train(config, shards, out, log=ignore, validate=None):
    return train_segmentor(config, shards, out, journal=Journal(log), validate=validate, quiet=True)


def weights_of(path):
    return read_weights(path, "segmentor")[0]


def notes_of(path):
    return read_weights(path, "segmentor")[1]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------------------------------------------------------- loss


@settings(max_examples=60, deadline=None)
@given(
    logits=hnp.arrays(np.float64, (2, 3, 3, 4), elements=st.floats(-30, 30)),
    label=hnp.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, VOID])),
)
def test_loss_is_equation_9_averaged_over_what_is_not_void(logits, label):
    terms = []
    for n, i, j in np.ndindex(label.shape):
        if label[n, i, j] != VOID:
            scores = logits[n, :, i, j]
            largest = scores.max()
            terms.append(largest + math.log(sum(math.exp(s - largest) for s in scores)) - scores[label[n, i, j]])
    given_logits = torch.from_numpy(logits).requires_grad_()
    loss = cross_entropy_loss(given_logits, torch.from_numpy(label), VOID, lambda count: count)
    loss.backward()
    assert loss.item() == pytest.approx(sum(terms) / len(terms) if terms else 0.0, rel=1e-12, abs=1e-12)
    assert torch.isfinite(given_logits.grad).all()
    void = torch.from_numpy(label == VOID)[:, None].expand_as(given_logits)
    assert not given_logits.grad[void].any()


# -------------------------------------------------------------------------------------------------------------- course


def test_it_learns_and_what_it_learned_can_be_used(shards, tmp_path):
    logged = []
    path = train(config(iterations=40, log_every=10), shards, tmp_path, lambda v, s: logged.append((s, v)))
    assert path == tmp_path / "segmentor.safetensors"
    assert [step for step, _ in logged] == [10, 20, 30, 40]
    # Two classes of like share: who does not look at the image cannot come below their entropy.
    assert logged[-1][1]["segment/segmentor/loss"] < 0.6 * math.log(2)
    assert {"segment/segmentor/learning_rate", "segment/crops_per_s", "segment/data_wait_percent"} <= logged[0][
        1
    ].keys()
    segmentor, classes = load_segmentor(path)
    assert classes == CLASSES
    assert not segmentor.training
    saved, notes = read_weights(path, "segmentor")
    assert notes["step"] == "40"
    assert yaml.safe_load(notes["config"])["segmentation"]["iterations"] == 40
    assert same(saved, segmentor.state_dict())


def test_a_seed_decides_everything_and_nothing_outside_is_touched(shards, tmp_path):
    states, draws = [], []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)  # what the caller did with torch's generator before makes no difference
        states.append(weights_of(train(config(seed=seed, iterations=3), shards, tmp_path / str(number))))
        draws.append(torch.rand(1))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])
    for number, drawn in enumerate(draws):
        torch.manual_seed(number)
        assert torch.equal(drawn, torch.rand(1))


def test_loader_threads_make_no_difference(shards, tmp_path):
    alone = weights_of(train(config(iterations=3), shards, tmp_path / "0"))
    helped = weights_of(train(config(iterations=3, workers=2), shards, tmp_path / "2"))
    assert same(alone, helped)


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({"iterations": "null", "epochs": 2}, 5),  # 20 crops in batches of 4
        ({"iterations": "null", "epochs": 1, "batch_size": 3}, 4),  # 10 crops, the last batch reaches into the next
        ({"iterations": "null", "epochs": 3, "batch_size": 20}, 2),
        ({"iterations": 2, "epochs": 50}, 2),
    ],
)
def test_length(shards, tmp_path, changes, updates):
    assert notes_of(train(config(**changes), shards, tmp_path))["step"] == str(updates)


@pytest.mark.parametrize("watch", ["epoch_mean", "last_batch"])
def test_the_learning_rate_falls_when_an_epochs_loss_does_not(shards, tmp_path, monkeypatch, watch):
    losses = iter([5.0, 1.0, 2.0, 3.0, 2.0, 1.5, 1.2, 9.0, 9.0, 9.0])

    def scripted(logits, label, void, average):
        return logits.sum() * 0 + next(losses)

    monkeypatch.setattr(source_only, "cross_entropy_loss", scripted)
    rates = []
    settings = {"iterations": 10, "batch_size": 5, "log_every": 1, "lr": 1e-3, "schedule.minimum": 1e-4}
    train(
        config(**settings, **{"schedule.watch": watch}),
        shards,
        tmp_path,
        lambda values, step: rates.append(values["segment/segmentor/learning_rate"]),
    )
    # Epochs are two updates long; an epoch's fall shows in the first update after it. Means: 3, 2.5, 1.75, 5.1, 9; last
    # losses: 1, 3, 1.5, 9, 9. With patience 0 the first epoch that is not better than the best lets the rate fall.
    means = [1e-3] * 8 + [5e-4] * 2
    lasts = [1e-3] * 4 + [5e-4] * 2 + [2.5e-4] * 2 + [1.25e-4] * 2
    assert rates == pytest.approx(means if watch == "epoch_mean" else lasts)


def test_batches_of_nothing_but_void_do_no_harm(tmp_path):
    shards = write_shards(tmp_path / "shards", void_tiles=tuple(range(1, TILES)))
    logged = []
    state = weights_of(
        train(
            config(batch_size=2, log_every=1),
            shards,
            tmp_path / "out",
            lambda v, s: logged.append(v["segment/segmentor/loss"]),
        )
    )
    assert 0.0 in logged
    assert all(math.isfinite(loss) for loss in logged)
    assert all(torch.isfinite(value).all() for value in state.values())


# ---------------------------------------------------------------------------------------------------------- continuing


class Stopped(Exception):
    """Stands for a killed process."""


def stop_at(step, logged):
    def log(values, at):
        logged.append((at, values["segment/segmentor/loss"], values["segment/segmentor/learning_rate"]))
        if at == step:
            raise Stopped

    return log


def losses_and_rates(logged):
    return lambda values, step: logged.append(
        (step, values["segment/segmentor/loss"], values["segment/segmentor/learning_rate"])
    )


def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(shards, tmp_path):
    settings = config(iterations=10, checkpoint_every=3, log_every=4)
    whole, broken = [], []
    expected = weights_of(train(settings, shards, tmp_path / "whole", losses_and_rates(whole)))
    with pytest.raises(Stopped):
        train(settings, shards, tmp_path / "broken", stop_at(8, broken))
    assert not (tmp_path / "broken" / "segmentor.safetensors").exists()
    del broken[-1]  # it goes on from update 6 and logs update 8 again
    continued = weights_of(train(settings, shards, tmp_path / "broken", losses_and_rates(broken)))
    assert same(continued, expected)
    assert broken == whole


def test_a_longer_training_continues_a_shorter_one_bit_for_bit(shards, tmp_path):
    expected = weights_of(train(config(iterations=8), shards, tmp_path / "whole"))
    train(config(iterations=4), shards, tmp_path / "parts")
    assert same(weights_of(train(config(iterations=8), shards, tmp_path / "parts")), expected)


def test_what_is_finished_is_not_trained_again(shards, tmp_path):
    before = weights_of(train(config(), shards, tmp_path))
    (tmp_path / "segmentor.safetensors").unlink()
    logged = []
    assert same(weights_of(train(config(), shards, tmp_path, losses_and_rates(logged))), before)
    assert logged == []


def test_a_torn_checkpoint_is_passed_over(shards, tmp_path):
    settings = config(iterations=6, checkpoint_every=2)
    expected = weights_of(train(settings, shards, tmp_path))
    newest = sorted((tmp_path / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(weights_of(train(settings, shards, tmp_path)), expected)


def test_milestones_stay(shards, tmp_path):
    train(config(iterations=9, checkpoint_every=1, milestone_every=4), shards, tmp_path)
    steps = [int(path.stem[5:]) for path in sorted((tmp_path / "checkpoints").glob("*.pt"))]
    assert steps == [4, 8, 9]


def test_a_full_disk_ends_it_and_nothing_is_lost(shards, tmp_path, monkeypatch):
    settings = config(iterations=8, checkpoint_every=2)
    expected = weights_of(train(settings, shards, tmp_path / "whole"))

    def full(folder, step, *arguments):
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return save_checkpoint(folder, step, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            train(settings, shards, tmp_path / "full")
    steps = [int(path.stem[5:]) for path in (tmp_path / "full/checkpoints").glob("*.pt")]
    assert steps == [2]
    assert same(weights_of(train(settings, shards, tmp_path / "full")), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e-3}, "was made by another configuration; choose another run.name"),
        ({"seed": 1}, "was made by another configuration"),
        ({"iterations": 2}, "has 4 iterations already, more than the 2 asked for; raise segmentation.iterations"),
    ],
)
def test_checkpoints_of_another_training_are_refused(shards, tmp_path, changes, message):
    train(config(iterations=4), shards, tmp_path)
    with pytest.raises(ValueError, match=message):
        train(config(**{"iterations": 4, **changes}), shards, tmp_path)


def test_checkpoints_from_other_tiles_are_refused(shards, tmp_path):
    train(config(iterations=2), shards, tmp_path / "out")
    with pytest.raises(ValueError, match="another configuration"):
        train(config(iterations=2), write_shards(tmp_path / "shards", tiles=5), tmp_path / "out")


# ---------------------------------------------------------------------------------------------------------- validation


def test_best_is_the_validation_with_the_highest_miou(shards, tmp_path):
    scores = iter([10.0, 30.0, 30.0, 20.0])
    seen, logged = [], []

    def validate(segmentor):
        segmentor.eval()
        seen.append({name: value.clone() for name, value in segmentor.state_dict().items()})
        return {"miou": next(scores)}

    best = config(iterations=7, batch_size=5, validation="source", checkpoint="best")  # epochs end at 2, 4, 6
    path = train(best, shards, tmp_path, lambda values, step: logged.append((step, values)), validate)
    assert notes_of(path)["step"] == "4"
    assert same(weights_of(path), seen[1])
    validated = [(step, v["segment/validation/miou"]) for step, v in logged if "segment/validation/miou" in v]
    assert validated == [(2, 10.0), (4, 30.0), (6, 30.0), (7, 20.0)]


def test_best_survives_being_stopped(shards, tmp_path):
    settings = config(
        iterations=8, batch_size=5, checkpoint_every=3, log_every=1, validation="target", checkpoint="best"
    )

    def score(segmentor):
        # A function of the weights, so that the same training has the same best.
        return {"miou": next(segmentor.parameters()).detach().abs().sum().item() * 1e6 % 97}

    def train_on(out, log=ignore):
        return train(settings, shards, out, log, score)

    expected = train_on(tmp_path / "whole")

    def killed(values, step):
        if step == 7:
            raise Stopped

    with pytest.raises(Stopped):
        train_on(tmp_path / "broken", killed)
    continued = train_on(tmp_path / "broken")
    assert notes_of(continued)["step"] == notes_of(expected)["step"]
    assert same(weights_of(continued), weights_of(expected))


def test_validating_changes_nothing_when_the_last_update_counts(shards, tmp_path):
    def validate(segmentor):
        segmentor.eval()
        with torch.no_grad():
            segmentor(torch.rand(1, 3, 32, 32))
        return {"miou": 1.0}

    plain = weights_of(train(config(iterations=7), shards, tmp_path / "plain"))
    validated = weights_of(
        train(config(iterations=7, validation="source"), shards, tmp_path / "validated", validate=validate)
    )
    assert same(plain, validated)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_validation_comes_after_every_so_many_epochs_and_at_the_end(shards, tmp_path, every):
    at = []
    settings = config(iterations=9, batch_size=5, validation="source", validate_every=every)

    def log(values, step):
        at.extend([step] if "segment/validation/miou" in values else [])

    train(settings, shards, tmp_path, log, lambda segmentor: {"miou": 0.0})
    assert at == [*range(2 * every, 9, 2 * every), 9]


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_loss_that_is_not_finite_names_its_update_and_is_never_saved(shards, tmp_path, monkeypatch):
    calls = []

    def spoilt(logits, label, void, average):
        calls.append(1)
        return cross_entropy_loss(logits, label, void, average) * (math.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(source_only, "cross_entropy_loss", spoilt)
    named = r"segment/segmentor/loss is not finite at iteration 5; the last good checkpoint is of iteration 4, .*lower"
    with pytest.raises(FloatingPointError, match=named):
        train(config(iterations=20, log_every=100, checkpoint_every=4), shards, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_000000004.pt"]
    assert not (tmp_path / "segmentor.safetensors").exists()


def test_a_crop_the_network_cannot_take_names_the_key_and_the_cure(shards, tmp_path):
    with pytest.raises(ValueError, match=r"segmentation.crop=36 is not a multiple of 8.*take 32 or 40"):
        train(config(crop=36), shards, tmp_path)


def test_a_crop_larger_than_the_tiles_is_refused(shards, tmp_path):
    with pytest.raises(ValueError, match=r"segmentation.crop=64 is larger than the tiles"):
        train(config(crop=64), shards, tmp_path)


def test_labels_that_are_void_throughout_are_refused(tmp_path):
    shards = write_shards(tmp_path / "shards", void_share=1.0)
    with pytest.raises(ValueError, match="every pixel of these shards' labels is void"):
        train(config(), shards, tmp_path / "out")


def test_a_folder_that_is_no_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a finished folder of shards"):
        train(config(), tmp_path, tmp_path / "out")
