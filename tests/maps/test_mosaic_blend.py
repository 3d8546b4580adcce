"""Strips and bands are the whole computed at once, however a raster is cut and whoever computes which part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaic_scenes import Blurry, naive, random_image
from numpy.testing import assert_allclose, assert_array_equal

from drdg.config import EvaluationConfig
from drdg.inference.sliding import probability_bands
from drdg.maps.blend import pieces_of, read_resampled
from drdg.maps.networks import FLIPS, Segmentation
from drdg.maps.ranks import runs, share
from drdg.maps.resample import Axis, apply
from drdg.maps.windows import Layout


class Array:
    """A raster in memory that notes how it is read."""

    def __init__(self, image, valid=None):
        self.image, self.valid = image, valid
        self.seen = []

    def read(self, window):
        self.seen.append(window)
        valid = None if self.valid is None else self.valid[window.rows, window.cols]
        return self.image[window.rows, window.cols], valid


class Counting(Segmentation):
    """Counts the windows that go through it."""

    windows = 0

    def __call__(self, images):
        self.windows += len(images)
        return super().__call__(images)


def image_of(height, width, seed=0):
    return random_image(height, width, seed).transpose(1, 2, 0)


def mapped(source, network, layout, world_size=1):
    """Values (C, H, W) of all ranks' pieces, one rank after the other; each pixel once."""
    whole = np.full((network.channels, layout.height, layout.width), np.nan, np.float32)
    for rank in range(world_size):
        for run in runs(share(layout.pieces, rank, world_size), lambda piece: False):
            for piece, values in pieces_of(source, network, layout, run):
                place = whole[:, piece.window.rows, piece.window.cols]
                assert np.isnan(place).all()
                place[:] = values.numpy()
    assert not np.isnan(whole).any()
    return whole


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    side=st.sampled_from([16, 24]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    batch=st.integers(1, 9),
    band=st.sampled_from([8, 20, 64]),
    strip=st.sampled_from([16, 40, 999]),
    ranks=st.integers(1, 3),
)
def test_stitching_equals_a_naive_reference_in_float64(height, width, side, overlap, batch, band, strip, ranks):
    image = image_of(height, width)
    expected = naive(Blurry(dtype=torch.float64), image, side, overlap)
    layout = Layout(height, width, height, width, side, max(1, round(side * (1 - overlap))), batch, band, strip, 8)
    whole = mapped(Array(image), Segmentation(Blurry(), 3), layout, ranks)
    assert_allclose(whole, expected, atol=1e-5)
    ordered = np.sort(expected, 0)
    clear = ordered[-1] - ordered[-2] > 2e-5
    assert_array_equal(whole.argmax(0)[clear], expected.argmax(0)[clear])


def test_it_is_the_sum_of_sliding():
    image = image_of(70, 93)

    class Pixels:
        height, width = 70, 93

        def read_image(self, window):
            return image[window.rows, window.cols]

    config = EvaluationConfig().model_copy(update={"window": 32, "overlap": 0.5, "batch_size": 4})
    there = torch.cat([band for _, band in probability_bands(Blurry(), Pixels(), config)], 1)
    here = mapped(Array(image), Segmentation(Blurry(), 3), Layout(70, 93, 70, 93, 32, 16, 4, 32, 48, 8))
    assert_allclose(here, there.numpy(), atol=2e-6)


@pytest.mark.parametrize("work", [(150, 130), (67, 71), (240, 61)])
@pytest.mark.parametrize("strip", [32, 999])
def test_no_bit_depends_on_who_computes_what(work, strip):
    image = image_of(150, 130)
    valid = np.ones((150, 130), bool)
    valid[20:90, 30:110] = False
    layout = Layout(150, 130, *work, 24, 12, 5, 16, strip, 8)
    assert (len(layout.strips) > 1) == (strip == 32)
    alone = mapped(Array(image, valid), Segmentation(Blurry(), 3), layout)
    for ranks in (2, 3, 10):
        assert_array_equal(mapped(Array(image, valid), Segmentation(Blurry(), 3), layout, ranks), alone)
    # Nor on where it was interrupted.
    for run in runs(layout.pieces, lambda piece: piece.band % 3 == 0):
        for piece, values in pieces_of(Array(image, valid), Segmentation(Blurry(), 3), layout, run):
            assert_array_equal(values.numpy(), alone[:, piece.window.rows, piece.window.cols])


@pytest.mark.parametrize("work", [(61, 75), (160, 200), (97, 43)])
def test_another_gsd_is_the_whole_resized_mapped_and_resized_back(work):
    height, width = 97, 120
    image = image_of(height, width)
    resized = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), work, mode="bilinear", antialias=True
    )
    axes = Axis(height, work[0]), Axis(width, work[1])
    seen, _ = read_resampled(Array(image), axes, (0, work[0]), (0, work[1]))
    assert_allclose(seen, resized[0].permute(1, 2, 0).numpy(), atol=0.501)
    there = naive(Blurry(dtype=torch.float64), seen, 24, 0.5)
    expected = F.interpolate(torch.from_numpy(there)[None], (height, width), mode="bilinear", antialias=True)[0].numpy()
    whole = mapped(Array(image), Segmentation(Blurry(), 3), Layout(height, width, *work, 24, 12, 4, 16, 48, 8))
    assert_allclose(whole, expected, atol=1e-5)
    assert_allclose(whole.sum(0), 1, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(old=st.integers(1, 60), new=st.integers(1, 60), data=st.data())
def test_a_part_of_an_axis_is_that_part_of_the_whole_interpolated(old, new, data):
    start = data.draw(st.integers(0, new - 1))
    stop = data.draw(st.integers(start + 1, new))
    values = torch.rand(1, old, 5, generator=torch.Generator().manual_seed(old), dtype=torch.float64)
    whole = F.interpolate(values[None], (new, 5), mode="bilinear", antialias=True, align_corners=False)[0]
    taps = Axis(old, new).taps(start, stop)
    found = apply(values[:, taps.first : taps.stop].float(), taps, Axis(5, 5).taps(0, 5))
    assert_allclose(found.numpy(), whole[:, start:stop].numpy(), atol=1e-6)


def test_windows_without_values_are_not_computed():
    image, valid = image_of(96, 160), np.zeros((96, 160), bool)
    valid[40:44, 90:93] = True
    network = Counting(Blurry(), 3)
    whole = mapped(Array(image, valid), network, Layout(96, 160, 96, 160, 32, 16, 4, 32, 999))
    assert network.windows == 4  # two down, two across, of 45
    expected = naive(Blurry(dtype=torch.float64), image, 32, 0.5)
    assert_allclose(whole[:, valid], expected[:, valid], atol=1e-5)
    empty = Counting(Blurry(), 3)
    mapped(Array(image, np.zeros((96, 160), bool)), empty, Layout(96, 160, 96, 160, 32, 16, 4, 32, 999))
    assert empty.windows == 0


def test_missing_pixels_do_not_darken_their_neighbours():
    image = np.full((40, 40, 3), 200, np.uint8)
    valid = np.ones((40, 40), bool)
    valid[:, 17:] = False
    image[~valid] = 0
    seen, known = read_resampled(Array(image, valid), (Axis(40, 23), Axis(40, 23)), (0, 23), (0, 23))
    assert known is not None
    assert set(np.unique(seen[known])) == {200}
    assert not seen[~known].any()
    assert known[:, :10].all()
    assert not known[:, 11:].any()


def test_windows_go_through_in_full_batches_also_of_narrow_rasters():
    sizes = []

    class Noting(Segmentation):
        def __call__(self, images):
            sizes.append(len(images))
            return super().__call__(images)

    mapped(Array(image_of(128, 48)), Noting(Blurry(), 3), Layout(128, 48, 128, 48, 32, 16, 6, 512, 999))
    assert sizes == [6, 6, 2]  # 7 rows of 2, three rows at a time
    sizes.clear()
    mapped(Array(image_of(32, 176)), Noting(Blurry(), 3), Layout(32, 176, 32, 176, 32, 16, 4, 512, 999))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("axes", FLIPS)
def test_flips_are_the_mean_over_mirrored_looks(axes):
    images = torch.from_numpy(image_of(32, 32)).repeat(2, 1, 1, 1)
    segmentor = Blurry()
    network = Segmentation(segmentor, 3, flips=True)
    x = images.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        looks = [segmentor(x.flip(a) if a else x).softmax(1) for a in FLIPS]
        expected = sum(look.flip(a) if a else look for look, a in zip(looks, FLIPS, strict=True)) / 4
        assert_allclose(network(images).numpy(), expected.numpy(), atol=1e-6)
        # So that it is the same whichever way up the raster is.
        mirrored = images.flip([axis - 1 for axis in axes]) if axes else images
        back = network(mirrored)
        assert_allclose((back.flip(axes) if axes else back).numpy(), expected.numpy(), atol=1e-6)


def test_scales_are_the_mean_over_sizes_that_the_segmentor_can_take():
    segmentor = Blurry()
    segmentor.requires_divisible_input_shape = True
    segmentor.encoder = torch.nn.Identity()
    segmentor.encoder.output_stride = 16
    network = Segmentation(segmentor, 3, scales=(0.5, 1.0, 1.3))
    assert [network.side_at(64, scale) for scale in (0.1, 0.5, 1.0, 1.3)] == [16, 32, 64, 80]
    images = torch.from_numpy(image_of(64, 64))[None]
    x = images.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = 0
        for side in (32, 64, 80):
            seen = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            expected = (
                expected + F.interpolate(segmentor(seen).softmax(1), (64, 64), mode="bilinear", antialias=True) / 3
            )
        found = network(images)
    assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert_allclose(found.sum(1).numpy(), 1, atol=1e-5)


def test_every_rank_gets_its_part_and_no_piece_is_left_out():
    layout = Layout(5000, 3000, 5000, 3000, 64, 32, 4, 64, 640, 64)
    for ranks in (1, 2, 3, 7):
        parts = [share(layout.pieces, rank, ranks) for rank in range(ranks)]
        assert sorted(piece for part in parts for piece in part) == sorted(layout.pieces)
        assert max(map(len, parts)) <= -(-len(layout.pieces) // ranks) + 100 // ranks
    assert len(runs(share(layout.pieces, 0, 1), lambda piece: False)) == len(layout.strips)
    assert len(share(Layout(2048, 512, 2048, 512, 64, 32, 4).pieces, 1, 2)) == 4
