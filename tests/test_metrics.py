"""Scores against a naive count, pixel by pixel, and the rules for void and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drdg.metrics import VOID, BatchMeans, ConfusionMatrix

CLASSES = 4
NAMES = ("clutter", "road", "car", "tree")
SHAPES = hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=9)


@st.composite
def pixels(draw):
    shape = draw(SHAPES)
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, VOID])))
    prediction = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    return truth, prediction


def naive(truth, prediction):
    """Per class true positives, false positives and false negatives, by a loop in float64."""
    tp, fp, fn = np.zeros(CLASSES), np.zeros(CLASSES), np.zeros(CLASSES)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t == VOID:
            continue
        if t == p:
            tp[t] += 1
        else:
            fn[t] += 1
            fp[p] += 1
    return tp, fp, fn


@settings(max_examples=150, deadline=None)
@given(pixels())
def test_scores_equal_a_naive_count(pair):
    truth, prediction = pair
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(truth, prediction)
    assert matrix.counts.dtype == np.int64
    tp, fp, fn = naive(truth, prediction)
    present = [i for i in range(CLASSES) if tp[i] + fn[i] > 0]
    if not present:
        with pytest.raises(ValueError, match="every pixel of the labels is void"):
            matrix.scores(NAMES)
        return
    scores = matrix.scores(NAMES)
    iou = [100 * tp[i] / (tp[i] + fp[i] + fn[i]) for i in present]
    f1 = [100 * 2 * tp[i] / (2 * tp[i] + fp[i] + fn[i]) for i in present]
    assert list(scores.iou) == list(scores.f1) == [NAMES[i] for i in present]
    np.testing.assert_allclose(list(scores.iou.values()), iou, rtol=1e-12)
    np.testing.assert_allclose(list(scores.f1.values()), f1, rtol=1e-12)
    np.testing.assert_allclose([scores.miou, scores.mean_f1], [np.mean(iou), np.mean(f1)], rtol=1e-12)
    np.testing.assert_allclose(scores.oa, 100 * tp.sum() / (tp.sum() + fn.sum()), rtol=1e-12)
    assert scores.absent == tuple(NAMES[i] for i in range(CLASSES) if i not in present)
    for name, value in scores.iou.items():
        share = value / 100
        assert scores.f1[name] == pytest.approx(100 * 2 * share / (1 + share), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(pixels(), min_size=1, max_size=4))
def test_cutting_the_pixels_up_changes_nothing(pairs):
    whole = ConfusionMatrix(CLASSES)
    parts = []
    for truth, prediction in pairs:
        whole.update(truth, prediction)
        parts.append(ConfusionMatrix(CLASSES))
        parts[-1].update(truth, prediction)
    merged = sum(parts[1:], start=parts[0])
    np.testing.assert_array_equal(merged.counts, whole.counts)
    read_back = ConfusionMatrix.from_counts(whole.counts.tolist())
    np.testing.assert_array_equal(read_back.counts, whole.counts)


def test_adding_leaves_both_matrices_as_they_were():
    one, other = ConfusionMatrix.from_counts([[1, 0], [0, 2]]), ConfusionMatrix.from_counts([[0, 3], [0, 0]])
    both = one + other
    both.update(np.zeros(4, np.uint8), np.zeros(4, np.uint8))
    assert one.counts.tolist() == [[1, 0], [0, 2]]
    assert other.counts.tolist() == [[0, 3], [0, 0]]
    assert both.counts.tolist() == [[5, 3], [0, 2]]


def test_absent_class_is_named_left_out_and_its_predictions_are_still_errors():
    matrix = ConfusionMatrix(CLASSES)
    truth = np.array([1, 1, 1, 1, 2, 2], np.uint8)
    matrix.update(truth, np.array([1, 1, 1, 3, 2, 2], np.uint8))
    scores = matrix.scores(NAMES)
    assert scores.absent == ("clutter", "tree")
    assert scores.iou == {"road": 75.0, "car": 100.0}
    assert scores.miou == 87.5
    assert scores.oa == pytest.approx(100 * 5 / 6)


def test_predictions_on_void_do_not_count():
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(np.array([1, VOID, VOID], np.uint8), np.array([1, 1, 2], np.uint8))
    assert matrix.counts.sum() == 1
    assert matrix.scores(NAMES).iou == {"road": 100.0}


def test_counts_go_beyond_what_float32_and_int32_can_hold():
    many = 2**40
    matrix = ConfusionMatrix.from_counts([[many, 1], [0, many]])
    assert (matrix + matrix).counts.sum() == 4 * many + 2
    assert matrix.scores(("a", "b")).iou["a"] == pytest.approx(100 * many / (many + 1), rel=1e-15)


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (np.array([1], np.uint8), np.array([CLASSES], np.uint8)),
        (np.array([VOID], np.uint8), np.array([VOID], np.uint8)),
        (np.array([CLASSES], np.uint8), np.array([1], np.uint8)),
        (np.array([1, 2], np.uint8), np.array([1], np.uint8)),
        (np.array([1], np.int64), np.array([1], np.uint8)),
    ],
)
def test_what_only_our_own_slip_can_cause_is_an_assertion(truth, prediction):
    with pytest.raises(AssertionError):
        ConfusionMatrix(CLASSES).update(truth, prediction)


@pytest.mark.parametrize("counts", [[[1, 2]], [[-1, 0], [0, 1]], [[0.5, 0], [0, 1]]])
def test_counts_must_be_a_square_of_whole_numbers(counts):
    with pytest.raises(AssertionError):
        ConfusionMatrix.from_counts(counts)


def plain_batch_means(tiles, size):
    """The released code's definition as its description states it, by masks in float64: IoU and F1 of each class."""
    batches = []
    for start in range(0, len(tiles), size):
        truth = np.concatenate([t.ravel() for t, _ in tiles[start : start + size]])
        guess = np.concatenate([p.ravel() for _, p in tiles[start : start + size]])
        shares = []
        for i in range(CLASSES):
            tp = float(((truth == i) & (guess == i)).sum())
            fp = float(((truth != i) & (guess == i)).sum())  # void is not i, so it is a false positive
            fn = float(((truth == i) & (guess != i)).sum())
            shares.append([(tp + 1e-5) / (tp + fp + fn + 1e-5), (2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5)])
        batches.append(shares)
    return 100 * np.mean(batches, axis=0)


def batch_means(tiles, size):
    means = BatchMeans(CLASSES, size)
    for truth, prediction in tiles:
        means.update(truth, prediction)
    return means.scores(NAMES)


@settings(max_examples=100, deadline=None)
@given(st.lists(pixels(), min_size=1, max_size=7), st.integers(1, 4))
def test_batch_means_equal_a_plain_statement_of_the_released_code(tiles, size):
    scores, plain = batch_means(tiles, size), plain_batch_means(tiles, size)
    assert scores.absent == ()
    np.testing.assert_allclose([scores.iou[name] for name in NAMES], plain[:, 0], rtol=1e-9)
    np.testing.assert_allclose([scores.f1[name] for name in NAMES], plain[:, 1], rtol=1e-9)
    np.testing.assert_allclose([scores.miou, scores.mean_f1], plain.mean(axis=0), rtol=1e-9)


def toy_tiles():
    """Five tiles of 8 by 8 pixels of a town where class 0 is rare, with errors in a fifth of it and a little void."""
    random = np.random.default_rng(3)
    tiles = []
    for number in range(5):
        truth = random.integers(1, CLASSES, (8, 8)).astype(np.uint8)
        if number == 0:
            truth[:2, :2] = 0
        prediction = np.where(random.random((8, 8)) < 0.8, truth, random.integers(0, CLASSES, (8, 8))).astype(np.uint8)
        truth[7, :3] = VOID
        tiles.append((truth, prediction))
    return tiles


def whole(tiles):
    matrix = ConfusionMatrix(CLASSES)
    for truth, prediction in tiles:
        matrix.update(truth, prediction)
    return matrix.scores(NAMES).miou


def test_the_same_predictions_score_differently_in_other_batches():
    tiles = toy_tiles()
    scores = [whole(tiles), *(batch_means(tiles, size).miou for size in (5, 2, 1))]
    assert len({round(score, 1) for score in scores}) == 4
    # One batch without void is the one confusion matrix again, but for the smoothing.
    labelled = [(truth[:7].copy(), prediction[:7].copy()) for truth, prediction in tiles]
    assert batch_means(labelled, 5).miou == pytest.approx(whole(labelled), abs=1e-3)


def test_a_class_that_a_batch_lacks_is_all_hit_until_one_pixel_is_called_it():
    truth = np.full((8, 8), 1, np.uint8)
    stray = truth.copy()
    stray[0, 0] = 3
    assert batch_means([(truth, truth)], 1).iou == {"clutter": 100, "road": 100, "car": 100, "tree": 100}
    assert batch_means([(truth, stray)], 1).iou["tree"] < 0.01
    assert batch_means([(truth, stray), (truth, truth)], 1).iou["tree"] == pytest.approx(50, abs=0.01)
    assert batch_means([(truth, stray)], 1).oa == pytest.approx(100 * 63 / 64)


def test_a_short_last_batch_weighs_as_much_as_the_others():
    right, wrong = np.full((4, 4), 1, np.uint8), np.full((4, 4), 2, np.uint8)
    scores = batch_means([(right, right), (right, right), (right, wrong)], 2)
    assert scores.iou["road"] == pytest.approx(50, abs=1e-3)
    assert scores.oa == 50


def test_no_tile_is_nothing_to_score():
    with pytest.raises(ValueError, match=r"every TOP is smaller than evaluation\.window"):
        BatchMeans(CLASSES).scores(NAMES)


@pytest.mark.parametrize("broken", [{"prediction": CLASSES}, {"prediction": VOID}, {"truth": CLASSES + 1}])
def test_batch_means_take_only_classes(broken):
    truth, prediction = (np.full((2, 2), broken.get(name, 1), np.uint8) for name in ("truth", "prediction"))
    with pytest.raises(AssertionError):
        BatchMeans(CLASSES).update(truth, prediction)
