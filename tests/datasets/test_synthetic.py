"""Generated archives: height, image and label agree, every class is there, bytes repeat, and the domains differ."""

import dataclasses
import hashlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.config import PotsdamArchive, SyntheticConfig, VaihingenArchive
from drdg.datasets import CLASSES, PALETTE, open_archive
from drdg.datasets import synthetic as module
from drdg.datasets.camera import illumination, photograph, sunlit
from drdg.datasets.look import GREEN, INFRARED, RED, SOURCE, TARGET, Palette
from drdg.datasets.occupancy import Draws
from drdg.datasets.planning import GOLDEN_RATIO, plan_town
from drdg.datasets.relief import CROWN_FLOOR_M, noise, survey
from drdg.datasets.synthetic import coloured, render_top, source_site, target_site, write_archives
from drdg.datasets.town import Box, Roof, Streets, Town, Tree

COMMAND = Path(__file__).parents[2] / "shards" / "synthesize.py"
SITES = {"source": source_site(SyntheticConfig()), "target": target_site(SyntheticConfig())}


def ids(label, name):
    return label == CLASSES.index(name)


def surveyed(look, side, seed):
    rng = np.random.default_rng(seed)
    relief = survey(plan_town(side * look.gsd_m, rng), look, (0.0, 0.0), side, rng)
    return relief, rng


@pytest.fixture(scope="module", params=["source", "target"])
def relief(request):
    """A whole default-size TOP of each domain, before it is photographed."""
    site = SITES[request.param]
    return surveyed(site.look, site.side, 3)[0]


@pytest.fixture(scope="module")
def shots():
    """Default-size TOPs of both domains."""
    return {name: [render_top(site, index, 0) for index in range(2)] for name, site in SITES.items()}


@pytest.fixture(scope="module")
def small():
    return {"source_tops": 2, "target_tops": 3, "source_side": 256, "target_side": 160}


@pytest.fixture(scope="module")
def written(tmp_path_factory, small):
    config = SyntheticConfig(root=tmp_path_factory.mktemp("towns"), **small)
    return config, write_archives(config)


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ----------------------------------------------------------------------------------------- height, image, label agree


def test_heights_fit_the_classes(relief):
    above = relief.height - relief.ground
    assert above[ids(relief.label, "building")].min() > 2.0
    assert above[ids(relief.label, "tree")].min() >= CROWN_FLOOR_M - 1e-3
    sealed = above[ids(relief.label, "impervious_surface")]
    assert sealed.min() > -0.01
    assert sealed.max() < 0.15
    low = above[ids(relief.label, "low_vegetation")]
    assert np.percentile(np.abs(low), 90) < 0.01  # lawns; the rest are hedges
    assert low.max() < 1.6
    cars = above[ids(relief.label, "car")]
    assert 1.0 < cars.min() <= cars.max() < 2.0


def test_objects_have_their_metric_size_in_both_domains():
    # the same plan seen by both sensors covers the same square metres, whatever the pixel
    side_m = 46.08
    areas = []
    for look, side in ((SOURCE, 922), (TARGET, 512)):
        rng = np.random.default_rng(5)
        flat = dataclasses.replace(look, terrain=SOURCE.terrain)
        shot = survey(plan_town(side_m, rng), flat, (0.0, 0.0), side, np.random.default_rng(0))
        inside = slice(shot.margin, -shot.margin)
        label = shot.label[inside, inside]
        areas.append(np.bincount(label.ravel(), minlength=6) * look.gsd_m**2)
    np.testing.assert_allclose(areas[0], areas[1], rtol=0.06)


def test_a_gable_roof_is_as_high_as_planned():
    roof = Roof(Box(10, 10, 10, 8, 0.3), "gable", eaves_m=4.0, slope=0.75, pick=0.1, tone=0.0)
    town = Town(20.0, Streets(10.0, 10.0, 0.0, (-500.0,), (-500.0,)), roofs=[roof])
    relief = survey(town, SOURCE, (0.0, 0.0), 400, np.random.default_rng(0))
    on_roof = ids(relief.label, "building")
    assert on_roof.sum() * SOURCE.gsd_m**2 == pytest.approx(80, rel=0.01)
    base = relief.ground[relief.margin + 200, relief.margin + 200]
    assert relief.height[on_roof].max() - base == pytest.approx(4.0 + 0.75 * 4.0, abs=0.05)
    assert relief.height[on_roof].min() - base == pytest.approx(4.0, abs=0.06)


def test_the_higher_thing_is_seen():
    tree = Tree(6.0, 6.0, 3.0, 9.0, False, 0.0, ())
    house = Roof(Box(6, 6, 9, 9, 0.0), "flat", eaves_m=3.0, slope=0.0, pick=0.0, tone=0.0)
    town = Town(12.0, Streets(6.0, 6.0, 0.0, (-500.0,), (-500.0,)), roofs=[house], trees=[tree])
    relief = survey(town, TARGET, (0.0, 0.0), 134, np.random.default_rng(0))
    middle = relief.margin + 67
    assert relief.label[middle, middle] == CLASSES.index("tree")
    assert relief.height[middle, middle] > relief.ground[middle, middle] + 6
    assert ids(relief.label, "building").any()


def test_plants_are_bright_in_infrared_and_streets_are_not(shots):
    for look in shots.values():
        for shot in look:
            bands = shot.image.astype(np.float32)
            difference = bands[INFRARED] - bands[RED]
            trees, sealed = (difference[ids(shot.label, name)].mean() for name in ("tree", "impervious_surface"))
            assert trees > sealed + 20


def test_shadow_has_the_length_of_height_over_the_suns_rise():
    height = np.zeros((200, 200), np.float32)
    height[100:110, 50:150] = 4.0  # a wall of 4 m, the sun in the south at 45 degrees
    light = sunlit(height, 0.1, (0.0, 1.0), 1.0)
    assert light[102:110, 100].min() > 0.9
    assert light[115:, 100].min() > 0.9
    dark = np.flatnonzero(light[:100, 100] < 0.5)
    assert dark.max() == 99
    assert len(dark) == pytest.approx(40, abs=3)


@pytest.mark.parametrize(("azimuth", "step"), [(0, (-1, 0)), (90, (0, 1)), (180, (1, 0)), (270, (0, -1))])
def test_slopes_towards_the_sun_are_brighter(azimuth, step):
    relief, _ = surveyed(TARGET, 128, 0)
    rows, columns = np.mgrid[: relief.height.shape[0], : relief.height.shape[1]].astype(np.float32)
    facing = dataclasses.replace(relief, height=-(rows * step[0] + columns * step[1]) * np.float32(0.03))
    away = dataclasses.replace(relief, height=-facing.height)
    sun = dataclasses.replace(TARGET.sun, azimuth_deg=float(azimuth))
    middle = (0, relief.height.shape[0] // 2, relief.height.shape[1] // 2)
    assert illumination(facing, sun)[middle] > 1.1 > 0.95 > illumination(away, sun)[middle]


# ---------------------------------------------------------------------------------------------------- towns and sizes


def test_every_class_has_a_reasonable_share(shots):
    for shot in (shot for domain in shots.values() for shot in domain):
        shares = np.bincount(shot.label.ravel(), minlength=6) / shot.label.size
        low = {"clutter": 2, "impervious_surface": 18, "car": 2, "tree": 11, "low_vegetation": 13, "building": 17}
        high = {"clutter": 7, "impervious_surface": 40, "car": 5, "tree": 22, "low_vegetation": 35, "building": 32}
        for name, share in zip(CLASSES, 100 * shares, strict=True):
            assert low[name] <= share <= high[name], (name, share)


def test_class_shares_do_not_differ_between_domains():
    # drawn coarsely: the plan decides, and it is the same for both
    shares = {"source": [], "target": []}
    for name, site in SITES.items():
        look = dataclasses.replace(site.look, gsd_m=0.3)
        for index in range(6):
            rng = np.random.default_rng([7, site.stream, index])
            side = round(site.side_m / 0.3)
            relief = survey(plan_town(site.side_m, rng), look, (0.0, 0.0), side, rng)
            inside = slice(relief.margin, -relief.margin)
            shares[name].append(np.bincount(relief.label[inside, inside].ravel(), minlength=6) / side**2)
    gap = np.abs(np.mean(shares["source"], 0) - np.mean(shares["target"], 0))
    assert gap.max() < 0.04


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side_m=st.floats(6.4, 90.0))
def test_a_town_of_any_size_can_be_planned(seed, side_m):
    town = plan_town(side_m, np.random.default_rng(seed))
    assert town == plan_town(side_m, np.random.default_rng(seed))
    assert all(3.7 < car.box.length < 5.3 and 1.5 < car.box.width < 2.3 for car in town.cars)
    assert all(1.4 < tree.radius_m < 4.6 for tree in town.trees)
    assert town.trees
    assert town.surfaces


def test_neighbouring_tops_are_different_places(shots):
    first, second = shots["source"]
    assert (first.label != second.label).mean() > 0.3


@pytest.mark.parametrize("scale", [1.0, 3.0, 17.0])
def test_noise_has_unit_spread_and_is_as_wide_as_asked(scale):
    field = noise((300, 260), scale, np.random.default_rng(0))
    assert field.shape == (300, 260)
    assert field.std() == pytest.approx(1, abs=0.25)
    step = max(int(scale), 1)
    assert np.corrcoef(field[:-step].ravel(), field[step:].ravel())[0, 1] < 0.6
    assert np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1] > (0.9 if scale > 10 else 0.0)


@pytest.mark.parametrize("step", [GOLDEN_RATIO, 2**0.5])
def test_draws_cover_the_range_from_the_first_few_on(step):
    draws = Draws(step, np.random.default_rng(4))
    values = np.array([draws.next() for _ in range(16)])
    assert ((values >= 0) & (values < 1)).all()
    assert np.bincount((values * 4).astype(int), minlength=4).min() >= 3


def test_palette_picks_by_weight():
    palette = Palette(((3.0, (1, 1, 1, 1)), (1.0, (0, 0, 0, 0))))
    assert [palette.pick(at)[0] for at in (0.0, 0.74, 0.76, 0.999, 1.0)] == [1, 1, 0, 0, 0]


# ------------------------------------------------------------------------------------------------------------ the gap


def test_the_domains_look_different(shots):
    """Means differ by more than half a source's standard deviation somewhere, contrast by a quarter."""
    irrg = [INFRARED, RED, GREEN]
    source, target = (
        np.concatenate([shot.image[irrg].reshape(3, -1) for shot in shots[name]], axis=1).astype(np.float64)
        for name in ("source", "target")
    )
    shift = np.abs(source.mean(1) - target.mean(1)) / source.std(1)
    assert shift.max() > 0.5
    assert (target.std(1) / source.std(1)).min() < 0.75


def test_colours_of_one_domain_mean_another_class_in_the_other(shots):
    """A classifier of colours fails on the other domain, and again works once mean and covariance are matched."""
    pixels, labels = {}, {}
    for name, domain in shots.items():
        irrg = [shot.image[[INFRARED, RED, GREEN]].reshape(3, -1).T[::31] for shot in domain]
        pixels[name] = np.concatenate(irrg).astype(np.float64) / 255
        labels[name] = np.concatenate([shot.label.ravel()[::31] for shot in domain])

    def terms(x):
        products = [x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)]
        return np.column_stack([np.ones(len(x)), x, *products])

    def mean_recall(train, test, test_label):
        """Least squares on quadratic terms of the colour, classes weighted alike."""
        label = labels["source"]
        weight = (1 / np.bincount(label, minlength=6)[label])[:, None] ** 0.5
        fitted = np.linalg.lstsq(terms(train) * weight, np.eye(6)[label] * weight, rcond=None)[0]
        found = (terms(test) @ fitted).argmax(1)
        return np.mean([(found[test_label == k] == k).mean() for k in range(6)])

    def power(matrix, exponent):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * values**exponent) @ vectors.T

    source, target = pixels["source"], pixels["target"]
    spread, wanted = np.cov(source.T), np.cov(target.T)
    root = power(spread, 0.5)
    matched = (source - source.mean(0)) @ power(spread, -0.5) @ power(root @ wanted @ root, 0.5) @ power(spread, -0.5)
    own = mean_recall(source, source, labels["source"])
    foreign = mean_recall(source, target, labels["target"])
    adapted = mean_recall(matched + target.mean(0), target, labels["target"])
    assert own > 0.65
    assert foreign < 0.35
    assert adapted > 0.45


def test_the_dsms_lie_at_different_heights(shots):
    source, target = (np.concatenate([shot.dsm.ravel() for shot in shots[name]]) for name in ("source", "target"))
    assert target.min() - source.max() > 150
    for name in SITES:
        for shot in shots[name]:
            assert np.isfinite(shot.dsm).all()
            assert np.ptp(shot.dsm) < 25


def test_noise_and_photograph_repeat():
    images = [photograph(*reversed_arguments(surveyed(TARGET, 128, 9))) for _ in range(2)]
    assert np.array_equal(*images)
    assert images[0].shape == (4, 128, 128)


def reversed_arguments(pair):
    relief, rng = pair
    return relief, TARGET, rng


# ------------------------------------------------------------------------------------------------------- the archives


def test_archives_open_like_the_downloads(written, small):
    _, (potsdam, vaihingen) = written
    assert {path.name for path in potsdam.iterdir() if path.is_dir()} == {
        "1_DSM",
        "2_Ortho_RGB",
        "3_Ortho_IRRG",
        "5_Labels_all",
        "5_Labels_all_noBoundary",
    }
    assert (potsdam / "1_DSM" / "dsm_potsdam_02_10.tif").is_file()
    assert (vaihingen / "dsm" / "dsm_09cm_matching_area2.tif").is_file()
    for labels in ("full", "no_boundary"):
        for bands in ("irrg", "rgb"):
            source = open_archive(PotsdamArchive(root=potsdam, bands=bands, labels=labels))
            assert [top.id for top in source.split("train", need_label=True)] == ["2_10", "2_11"]
        target = open_archive(VaihingenArchive(root=vaihingen, labels=labels))
        assert [top.id for top in target.split("all", need_label=True)] == ["area1", "area2", "area3"]
        assert [top.id for top in target.split("val")] == ["area2"]
        assert [top.id for top in target.split("test")] == ["area1", "area3"]


def test_rasters_have_size_type_colours_and_place(written, small):
    _, folders = written
    for folder, side, gsd in zip(folders, (small["source_side"], small["target_side"]), (0.05, 0.09), strict=True):
        rasters = sorted(folder.rglob("*.tif"))
        assert len(rasters) == (10 if gsd == 0.05 else 12)
        for path in rasters:
            with rasterio.open(path) as file:
                assert (file.height, file.width) == (side, side)
                assert file.crs is not None
                raw, transform = file.read(), file.transform
            if "dsm" in path.name:
                assert raw.dtype == np.float32
                assert raw.shape[0] == 1
            else:
                assert raw.dtype == np.uint8
                assert raw.shape[0] == 3
            if "Labels" in path.parent.name or "gts" in path.parent.name:
                colours = set(map(tuple, raw.reshape(3, -1).T.tolist()))
                void = {(0, 0, 0)} if "noBoundary" in path.name else set()
                assert void <= colours <= set(PALETTE) | void
            numbers = [float(line) for line in path.with_suffix(".tfw").read_text().split()]
            assert numbers[:4] == [gsd, 0, 0, -gsd]
            assert numbers[4:] == pytest.approx((transform.c + gsd / 2, transform.f - gsd / 2), abs=1e-6)


def test_tops_lie_side_by_side(written, small):
    _, (potsdam, _) = written
    left, right = (
        [float(line) for line in (potsdam / "1_DSM" / f"dsm_potsdam_02_{column}.tfw").read_text().split()]
        for column in (10, 11)
    )
    assert right[4] - left[4] == pytest.approx(small["source_side"] * 0.05)
    assert left[4:] == [366976.525, 5809761.0]  # Potsdam's own first tile


def test_eroded_labels_are_void_within_three_pixels_of_a_border():
    label = np.zeros((20, 20), np.uint8)
    label[8:, 8:] = 5
    eroded = coloured(label, 3)
    kept = eroded.any(0)
    assert np.array_equal(eroded[:, kept], coloured(label)[:, kept])
    rows, columns = np.mgrid[:20, :20]
    for row, column in zip(*np.nonzero(label >= 0), strict=True):
        other = label != label[row, column]
        distance = np.hypot(rows[other] - row, columns[other] - column).min()
        assert kept[row, column] == (distance > 3), (row, column)


def test_a_finished_archive_is_left_alone(written, monkeypatch):
    config, folders = written
    before = [contents(folder) for folder in folders]
    monkeypatch.setattr(module, "render_top", lambda *_: pytest.fail("rendered again"))
    assert write_archives(config) == folders
    assert [contents(folder) for folder in folders] == before


def test_the_same_configuration_gives_the_same_bytes(written, small, tmp_path):
    _, folders = written
    again = write_archives(SyntheticConfig(root=tmp_path, **small))
    assert [contents(folder) for folder in again] == [contents(folder) for folder in folders]


def tiny(root, **changes):
    return SyntheticConfig(**{"root": root, "source_tops": 1, "target_tops": 1} | changes)


@pytest.fixture
def flat_towns(monkeypatch):
    """Renders next to nothing, for tests of what is written when; returns the list of what was rendered."""
    rendered = []

    def render(site, index, seed):
        rendered.append((site.folder, index))
        shape = (site.side, site.side)
        image = np.full((4, *shape), seed, np.uint8)
        return module.Shot(image, np.zeros(shape, np.float32), np.zeros(shape, np.uint8))

    monkeypatch.setattr(module, "render_top", render)
    return rendered


def test_an_archive_with_a_file_missing_or_cut_is_redone(tmp_path, flat_towns):
    source, target = write_archives(tiny(tmp_path))
    whole = contents(target)
    (target / "dsm" / "dsm_09cm_matching_area1.tif").unlink()
    flat_towns.clear()
    write_archives(tiny(tmp_path))
    assert flat_towns == [("Vaihingen", 0)]
    assert contents(target) == whole
    image = source / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG.tif"
    image.write_bytes(image.read_bytes()[:100])
    flat_towns.clear()
    write_archives(tiny(tmp_path))
    assert flat_towns == [("Potsdam", 0)]
    (source / module.MARKER).write_text("{")
    write_archives(tiny(tmp_path))
    assert json.loads((source / module.MARKER).read_text())["tiles"] == ["2_10"]


def test_an_interrupted_archive_is_not_taken_for_a_whole_one(tmp_path, flat_towns, monkeypatch):
    render = module.render_top

    def interrupt(site, index, seed):
        if index == 1:
            raise KeyboardInterrupt
        return render(site, index, seed)

    monkeypatch.setattr(module, "render_top", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_archives(tiny(tmp_path, source_tops=2))
    assert not (tmp_path / "Potsdam").exists()
    monkeypatch.setattr(module, "render_top", render)
    source, target = write_archives(tiny(tmp_path, source_tops=2))
    assert len(list(source.glob("3_Ortho_IRRG/*.tif"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]


def test_another_configuration_replaces_the_archive(tmp_path, flat_towns):
    source, _ = write_archives(tiny(tmp_path, source_tops=3))
    flat_towns.clear()
    write_archives(tiny(tmp_path, source_tops=1))
    assert flat_towns == [("Potsdam", 0)]  # the target is unchanged
    assert len(list(source.glob("3_Ortho_IRRG/*.tif"))) == 1
    flat_towns.clear()
    write_archives(tiny(tmp_path, seed=1))
    assert len(flat_towns) == 2


def test_a_look_is_part_of_the_configuration(tmp_path, flat_towns, monkeypatch):
    write_archives(tiny(tmp_path))
    flat_towns.clear()
    monkeypatch.setattr(module, "TARGET", dataclasses.replace(TARGET, dryness=0.9))
    write_archives(tiny(tmp_path))
    assert flat_towns == [("Vaihingen", 0)]


def test_foreign_data_are_never_replaced(tmp_path, flat_towns):
    (tmp_path / "Potsdam" / "3_Ortho_IRRG").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Potsdam: was not written by this command .* synthetic\.root"):
        write_archives(tiny(tmp_path))
    assert (tmp_path / "Potsdam" / "3_Ortho_IRRG").is_dir()


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/Potsdam: cannot be written .* set synthetic\.root"):
        write_archives(tiny(tmp_path / "file"))


@pytest.mark.parametrize(("tops", "last"), [(24, "7_12"), (38, "7_13")])
def test_tiles_are_the_benchmarks(tops, last):
    site = source_site(SyntheticConfig(source_tops=tops))
    assert site.tiles[0] == "2_10"
    assert site.tiles[-1] == last
    assert len(set(site.places)) == tops
    areas = target_site(SyntheticConfig(target_tops=33))
    assert areas.tiles[-1] == "area38"
    assert len(set(areas.places)) == 33


# -------------------------------------------------------------------------------------------------------- the command


def command(monkeypatch, *arguments):
    """Exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["synthesize.py", *arguments])
    try:
        runpy.run_path(str(COMMAND), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def test_the_command_writes_and_says_so(tmp_path, flat_towns, monkeypatch, capsys):
    overrides = [f"synthetic.root={tmp_path}", "synthetic.source_tops=1", "synthetic.target_tops=1"]
    assert command(monkeypatch, *overrides, "--dry-run") == 0
    assert not list(tmp_path.iterdir())
    assert "would write" in capsys.readouterr().out
    assert command(monkeypatch, *overrides) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert str(tmp_path / "Vaihingen") in lines[0]
    assert (tmp_path / "Potsdam" / module.MARKER).is_file()


def test_the_command_refuses_a_configuration_without_towns(monkeypatch, capsys):
    assert command(monkeypatch) == 2
    said = capsys.readouterr().err.strip()
    assert "synthetic" in said
    assert len(said.splitlines()) == 1
