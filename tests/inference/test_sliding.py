"""Blended windows over a whole TOP against the plain statement of it: all in memory, in float64, window by window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from drdg.config import EvaluationConfig
from drdg.inference.sliding import border_weight, predict_top, probability_bands, window_grid

CLASSES = 3


class ArrayPixels:
    """An image in memory, which also notes what is read of it."""

    def __init__(self, image):
        self.image = image
        self.height, self.width = image.shape[:2]
        self.read = []

    def read_image(self, window):
        assert window.row >= 0
        assert window.rows.stop <= self.height
        assert window.cols.stop <= self.width
        self.read.append(window)
        return self.image[window.rows, window.cols]


class Blurry(nn.Module):
    """A small network whose answer at a pixel depends on the window around it, so that blending matters."""

    requires_divisible_input_shape = False

    def __init__(self, seed=0, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 9, padding=4), nn.Tanh(), nn.Conv2d(6, CLASSES, 5, padding=2))
        for parameter in self.net.parameters():
            parameter.data *= 6
        self.seen = []
        self.to(dtype).eval()

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        # A ramp makes the answer depend on the place in the window, as padding does in a deep network.
        ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        return self.net(x) + ramp


def settings_of(window, overlap, batch_size):
    # The schema wants windows of at least 128 pixels; smaller ones test the same arithmetic faster.
    return EvaluationConfig().model_copy(update={"window": window, "overlap": overlap, "batch_size": batch_size})


def naive(network, image, side, overlap):
    """Weighted mean of the windows' softmax in float64, everything in memory, and no code of the suite's."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), mode="reflect")
    stride = max(1, round(side * (1 - overlap)))

    def starts(length):
        places = [i * stride for i in range((length - side) // stride + 1)]
        return places if places[-1] == length - side else [*places, length - side]

    weight = np.array([[_hann(y, side) * _hann(x, side) for x in range(side)] for y in range(side)])
    scores = np.zeros((CLASSES, *padded.shape[:2]))
    total = np.zeros(padded.shape[:2])
    for row in starts(padded.shape[0]):
        for col in starts(padded.shape[1]):
            tile = padded[row : row + side, col : col + side].astype(np.float64) / 255
            with torch.no_grad():
                logits = network(torch.from_numpy(tile).permute(2, 0, 1)[None])[0].numpy()
            e = np.exp(logits - logits.max(0))
            scores[:, row : row + side, col : col + side] += weight * e / e.sum(0)
            total[row : row + side, col : col + side] += weight
    return (scores / total)[:, :height, :width]


def _hann(i, n):
    return (1 - math.cos(2 * math.pi * (i + 0.5) / n)) / 2


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(3, 75),
    width=st.integers(3, 75),
    side=st.sampled_from([16, 24, 33]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.9]),
    batch=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_bands_equal_the_whole_computed_at_once(height, width, side, overlap, batch, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = naive(Blurry(seed, torch.float64), image, side, overlap)
    config = settings_of(side, overlap, batch)
    bands = list(probability_bands(Blurry(seed), ArrayPixels(image), config))
    # The bands follow each other without gap or overlap.
    assert [row for row, _ in bands] == np.cumsum([0, *(band.shape[1] for _, band in bands)])[:-1].tolist()
    whole = torch.cat([band for _, band in bands], 1).numpy()
    assert whole.dtype == np.float32
    assert whole.shape == (CLASSES, height, width)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    ids = predict_top(Blurry(seed), ArrayPixels(image), config, quiet=True)
    assert ids.dtype == np.uint8
    ordered = np.sort(expected, 0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    np.testing.assert_array_equal(ids[clear], expected.argmax(0)[clear])


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_memory_is_one_band_of_windows_and_every_row_of_windows_is_read_once(overlap):
    pixels = ArrayPixels(np.zeros((200, 70, 3), np.uint8))
    config = settings_of(32, overlap, 4)
    rows = [band.shape[1] for _, band in probability_bands(Blurry(), pixels, config)]
    assert sum(rows) == 200
    assert max(rows) <= 32
    assert len(pixels.read) == len({window.row for window in window_grid(pixels, config)})
    assert all((window.height, window.width) == (32, 70) for window in pixels.read)


def test_windows_go_through_the_network_in_full_batches():
    pixels = ArrayPixels(np.zeros((64, 80, 3), np.uint8))
    network = Blurry()
    predict_top(network, pixels, settings_of(32, 0.5, 5), quiet=True)  # 3 rows of 4 windows
    assert [shape[0] for shape in network.seen] == [5, 5, 2]


def test_the_weight_is_nowhere_zero_symmetric_and_sums_to_one_at_half_overlap():
    weight = border_weight(512)
    assert weight.min() > 0
    assert weight.float().min() ** 2 > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(weight, weight.flip(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(weight[256:] + weight[:256], torch.ones(256, dtype=torch.float64))


def test_seams_vanish_where_windows_disagree():
    class Disagreeing(Blurry):
        """Is sure of one class in a bright window and of another in a dark one."""

        def forward(self, x):
            sign = torch.where(x.mean((1, 2, 3)) > 0.4, 1.0, -1.0)[:, None, None, None]
            return torch.cat((sign, -sign, -9 + 0 * sign), 1).expand(-1, -1, *x.shape[-2:])

    image = np.zeros((16, 64, 3), np.uint8)
    image[:, 32:] = 255
    band = torch.cat([b for _, b in probability_bands(Disagreeing(), ArrayPixels(image), settings_of(16, 0.75, 8))], 1)
    steps = band[0, 8].diff().abs()
    assert steps.max() < 0.2  # without blending it is 0.76 in one step
    assert band[0, 8, 63] - band[0, 8, 0] > 0.7


def test_a_window_the_network_cannot_take_names_the_key_and_the_cure():
    network = Blurry()
    network.requires_divisible_input_shape = True
    network.encoder = nn.Identity()
    network.encoder.output_stride = 16
    with pytest.raises(ValueError, match=r"evaluation.window=120 is not a multiple of 16.*take 112 or 128"):
        predict_top(network, ArrayPixels(np.zeros((8, 8, 3), np.uint8)), settings_of(120, 0.5, 1), quiet=True)


def test_a_network_in_training_mode_is_our_own_slip():
    with pytest.raises(AssertionError, match="eval"):
        predict_top(Blurry().train(), ArrayPixels(np.zeros((8, 8, 3), np.uint8)), settings_of(16, 0.5, 1), quiet=True)
