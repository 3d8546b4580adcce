"""Every difference between the two presets changes what is computed."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from drdg.config import BerhuConfig, DsmConfig, load_config
from drdg.config.presets import AUTHORS
from drdg.datasets import Archive, Top
from drdg.inference.evaluate import evaluate
from drdg.losses import berhu_loss, resize_depth
from drdg.methods import build_translator
from drdg.models.critic import Critic
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.tiles.dsm import normalise

PAPER, RELEASED = load_config(), load_config(None, ["preset=authors"])


def differences(values: dict, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        found |= differences(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_every_difference_is_shown_by_a_test_here() -> None:
    assert differences(AUTHORS) == {
        "generator.depth_decoder",
        "critic.norm_eps",
        "dsm.range",
        "loss.berhu.scope",
        "loss.berhu.live_threshold",
        "loss.berhu.additive_eps",
        "loss.depth_resize",
        "gan.order",
        "gan.schedule.watch",
        "segmentation.validation",
        "segmentation.checkpoint",
        "evaluation.protocol",
    }


@pytest.mark.parametrize(("preset", "own"), [("paper", True), ("authors", False)])
def test_the_depth_decoder_is_own_or_the_image_decoder_again(preset: str, own: bool) -> None:
    config = load_config(None, [f"preset={preset}", "generator.width=64", "critic.width=1"])
    with torch.device("meta"):
        generator = build_translator("drdg", config).networks["to_target"]
    count = sum(parameter.numel() for parameter in generator.parameters() if parameter.requires_grad)
    image_part, depth_head, depth_decoder = 41_828_996 - 1, 2_049, 26_480_512  # counted in the released code; 1 is k
    assert count == image_part + depth_head + (depth_decoder if own else 0)


def test_the_critics_epsilon_changes_its_scores() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 128, 128) * 2 - 1
    scores = []
    for config in (PAPER, RELEASED):
        torch.manual_seed(1)
        critic = Critic(config.critic.model_copy(update={"width": 8}))
        scores.append(critic(image).abs().mean().item())
    assert scores[0] > 5 * scores[1]


def test_heights_are_scaled_to_the_sigmoids_range_or_to_twice_it() -> None:
    heights = np.array([[10.0, 15.0, 20.0]], dtype=np.float32)
    ranges = {"dataset_range_m": (10.0, 20.0), "top_range_m": (10.0, 20.0), "ground_m": None}
    assert normalise(heights, PAPER.dsm, **ranges).tolist() == [[0.0, 0.5, 1.0]]
    assert normalise(heights, RELEASED.dsm, **ranges).tolist() == [[-1.0, 0.0, 1.0]]
    assert RELEASED.dsm == DsmConfig(range="symmetric")


def test_berhus_threshold_is_the_images_own_or_the_batchs() -> None:
    true = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    predicted = torch.tensor([[0.1, 0.2], [1.0, 10.0]], dtype=torch.float64).view(2, 1, 1, 2)
    image, batch = (berhu_loss(predicted, true, BerhuConfig(scope=scope)) for scope in ("image", "batch"))

    def by_hand(values: list[float], threshold: float) -> float:
        return sum(v if v <= threshold else (v * v + threshold**2) / (2 * threshold) for v in values)

    assert image.item() == pytest.approx((by_hand([0.1, 0.2], 0.04) + by_hand([1.0, 10.0], 2.0)) / 4)
    assert batch.item() == pytest.approx(by_hand([0.1, 0.2, 1.0, 10.0], 2.0) / 4)


def test_berhus_live_threshold_pushes_the_worst_pixel_the_wrong_way() -> None:
    gradients = []
    for live in (False, True):
        predicted = torch.linspace(0, 2.59, 64, dtype=torch.float64).view(1, 1, 8, 8).requires_grad_(True)
        berhu_loss(predicted, torch.zeros_like(predicted), BerhuConfig(live_threshold=live)).backward()
        assert predicted.grad is not None
        gradients.append(predicted.grad.flatten()[-1].item())
    assert gradients[0] > 0 > gradients[1]


def test_berhus_additive_epsilon_makes_the_loss_a_little_smaller() -> None:
    predicted = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    plain, added = (berhu_loss(predicted, torch.zeros_like(predicted), BerhuConfig(additive_eps=e)) for e in (0, 1e-4))
    assert 0 < (plain - added).item() < 1e-3


def test_legacy_nearest_takes_the_upper_left_pixel_where_bilinear_takes_the_centre() -> None:
    ramp = torch.arange(7, dtype=torch.float64).expand(1, 1, 7, 7)
    legacy, centred = (resize_depth(ramp, 4, how)[0, 0, 0] for how in ("legacy_nearest", "bilinear"))
    assert legacy.tolist() == [0, 1, 3, 5]
    assert centred.tolist() == pytest.approx([0.375, 2.125, 3.875, 5.625])


def test_the_order_visits_every_tile_once_or_draws_with_replacement(two_domains: tuple[ShardStore, ShardStore]) -> None:
    source, target = two_domains
    seen = {}
    for order in ("permutation", "replacement"):
        stream = UnpairedStream(source, target, seed=3, order=order, need_dsm=False, dsm=PAPER.dsm)
        batches = stream.batches(0, len(source), rank=0, world_size=1, batch_size=1, workers=0)
        images = [batch["source_image"].numpy().tobytes() for batch in batches]
        seen[order] = len(set(images))
    assert seen["permutation"] == len(source)
    assert seen["replacement"] < len(source)


def test_the_authors_choose_the_segmentor_by_target_labels() -> None:
    assert (PAPER.segmentation.validation, PAPER.segmentation.checkpoint) == ("none", "last")
    assert (RELEASED.segmentation.validation, RELEASED.segmentation.checkpoint) == ("target", "best")


def test_the_authors_count_void_as_a_miss_and_an_absent_class_as_all_hit(tmp_path: Path) -> None:
    label = np.zeros((3, 128, 128), np.uint8)  # black is void
    label[:, :, :64] = 9
    for name, bands in (("image", np.zeros((3, 128, 128), np.uint8)), ("label", label)):
        profile = {"width": 128, "height": 128, "count": 3, "dtype": "uint8"}
        with rasterio.open(tmp_path / name, "w", driver="GTiff", **profile) as file:
            file.write(bands)
    top = Top("1", tmp_path / "image", None, tmp_path / "label")
    archive = Archive("town", (top,), (1, 2, 3), ("field", "never"), ((9, 9, 9), (8, 8, 8)), {"test": ("1",)})
    segmentor = torch.nn.Conv2d(3, 2, 1)
    segmentor.requires_divisible_input_shape = False
    with torch.no_grad():
        segmentor.weight.zero_()
        segmentor.bias.copy_(torch.tensor([1.0, 0.0]))  # "field" everywhere
    scores = {}
    for preset in ("paper", "authors"):
        config = load_config(None, [f"preset={preset}", "evaluation.window=128"])
        scores[preset] = evaluate(config, segmentor, archive, tmp_path / preset, quiet=True)
    assert scores["paper"]["iou"] == {"field": 100.0}
    assert scores["authors"]["iou"] == pytest.approx({"field": 50.0, "never": 100.0}, abs=1e-6)
