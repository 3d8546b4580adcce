"""The plan of a sweep: which jobs there are, in which order, known by what; and what is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from drdg.comparison.table import TABLES
from drdg.config import Config, load_config, to_yaml
from drdg.experiments import ROWS, find_row
from drdg.shards.build import build_shards, find_shards
from drdg.shards.location import Location
from drdg.stages.places import labelled_target, places_of
from drdg.stages.workspace import stages_of
from drdg.sweep.asked import Asked
from drdg.sweep.digests import Content, stage_digests
from drdg.sweep.plan import Sweep, ancestors, make_sweep
from drdg.sweep.refusals import refuse_what_cannot_work
from drdg.sweep.spec import REPORT, ROW_STAGES, SHARDS

REPOSITORY = Path(__file__).parents[2]
DEMO = str(REPOSITORY / "configs/demo.yaml")
# The two towns of the demo the other way round, as a second direction that needs no files either.
TURNED = "source.archive={kind: vaihingen, root: data/synthetic/Vaihingen}"
rows = st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=6, unique=True)
seeds = st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True)


def plan(rows: str, seeds: str = "0", **more: object) -> Sweep:
    return make_sweep(Asked(**{"config": DEMO, "rows": rows, "seeds": seeds, **more}))  # type: ignore[arg-type]


def planned(rows: list[str], seeds: list[int], *overrides: str) -> Sweep:
    return plan(",".join(rows), ",".join(map(str, seeds)), overrides=overrides)


@examples(max_examples=30)
@given(rows=rows, seeds=seeds)
def test_every_job_comes_after_all_that_it_needs(rows: list[str], seeds: list[int]) -> None:
    sweep = planned(rows, seeds)
    before: set[str] = set()
    for key, job in sweep.jobs.items():
        assert key == job.key
        assert set(job.needs) <= before
        before.add(key)
    assert len({job.place for job in sweep.jobs.values()}) == len(sweep.jobs)


@examples(max_examples=30)
@given(rows=rows, seeds=seeds)
def test_every_asked_cell_has_its_stages_and_what_rows_share_is_there_once(rows: list[str], seeds: list[int]) -> None:
    sweep = planned(rows, seeds)
    assert [(cell.row, cell.seed) for cell in sweep.asked_cells] == [(row, seed) for seed in seeds for row in rows]
    helpers = {other for row in rows for other in find_row(row).builds_on} - set(rows)
    assert {(cell.row, cell.seed) for cell in sweep.cells} == {
        (row, seed) for row in {*rows, *helpers} for seed in seeds
    }
    expected = {SHARDS: 1, REPORT: 1}
    for row in map(find_row, {*rows, *helpers}):
        scored = row.name in rows
        for stage, has in zip(ROW_STAGES, (row.is_trained, row.translator is not None, scored, scored), strict=True):
            expected[stage] = expected.get(stage, 0) + has * len(seeds)
    stages = [job.stage for job in sweep.jobs.values()]
    assert {stage: stages.count(stage) for stage in expected} == expected
    assert sum(expected.values()) == len(stages)
    for cell in sweep.cells:
        assert set(cell.jobs) == ancestors(sweep.jobs, cell.own_jobs) | set(cell.own_jobs)
        assert list(cell.jobs) == [key for key in sweep.jobs if key in cell.jobs]


@examples(max_examples=20)
@given(rows=rows, seeds=seeds, further=st.integers(41, 60))
def test_a_further_seed_changes_no_other_job(rows: list[str], seeds: list[int], further: int) -> None:
    before, after = planned(rows, seeds), planned(rows, [*seeds, further])
    kept = {key for key in before.jobs if key != REPORT}
    assert {key: before.jobs[key].digest for key in kept} == {key: after.jobs[key].digest for key in kept}
    assert before.jobs[REPORT].digest != after.jobs[REPORT].digest


def test_the_edges_are_those_of_the_rows() -> None:
    sweep = plan("mucss,oracle,baseline_rescaled")
    place = f"{sweep.directions[0].name}/seed0"
    needs = {key.removeprefix(f"{place}/"): job.needs for key, job in sweep.jobs.items()}
    shards = (f"{sweep.directions[0].name}/shards",)
    assert needs["dualgan/gan"] == needs["oracle/segment"] == needs["baseline_rescaled/translate"] == shards
    assert needs["dualgan/translate"] == (f"{place}/dualgan/gan",)
    assert needs["mucss/segment"] == (f"{place}/dualgan/translate", f"{place}/baseline_rescaled/translate")
    assert needs["mucss/evaluate"] == (f"{place}/mucss/segment",)
    assert needs["baseline_rescaled/segment"] == (f"{place}/baseline_rescaled/translate",)
    assert set(needs[REPORT]) == {f"{place}/{row}/evaluate" for row in ("mucss", "oracle", "baseline_rescaled")}
    assert "dualgan/segment" not in needs


def test_both_tables_are_one_sweep_in_their_order() -> None:
    sweep = make_sweep(Asked(config=DEMO, ablation=True, table1=True, seeds="1"))
    assert sweep.name == "demo-tables"
    assert set(sweep.rows) == {*TABLES["main"], *TABLES["ablation"]}
    assert [row for row in sweep.rows if row in TABLES["main"]] == list(TABLES["main"])
    assert [row for row in sweep.rows if row in TABLES["ablation"]] == list(TABLES["ablation"])
    assert make_sweep(Asked(config=DEMO, ablation=True)).rows == TABLES["ablation"]


def test_a_job_is_told_all_it_needs_wherever_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = plan("drdg", "7", overrides=("run.root=here", "shards.root=tiles"))
    assert sweep.folder == tmp_path / "here/demo-sweep"
    key = f"{sweep.directions[0].name}/seed7/drdg/gan"
    monkeypatch.chdir("/")
    config = Config.model_validate(sweep.jobs[key].config)
    assert config.run.directory == sweep.folder / "runs" / f"{sweep.directions[0].name}_seed7"
    assert (config.run.seed, config.run.rows, config.run.keep_changed) == (7, ["drdg"], True)
    assert config.shards.root == tmp_path / "tiles"
    assert config.source.archive.root == tmp_path / "data/synthetic/Potsdam"
    assert config.synthetic is not None
    assert config.source.archive.root.parent == config.synthetic.root
    assert config.tracking.uri is None  # jobs ask sweep.json
    assert sweep.uri == f"sqlite:///{sweep.folder}/mlflow.db"
    # Where things lie decides nothing.
    other = plan("drdg", "7", overrides=("run.root=there", "shards.root=elsewhere", "synthetic.root=data/synthetic"))
    assert [job.digest for job in other.jobs.values()] == [job.digest for job in sweep.jobs.values()]


def test_the_store_is_the_configurations_then_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert plan("drdg").uri == "http://127.0.0.1:5000"
    assert plan("drdg", overrides=("tracking.uri=sqlite:///my.db",)).uri == f"sqlite:///{tmp_path}/my.db"


def test_a_smoke_test_is_short_and_trains_generators_and_leaves_real_results_alone() -> None:
    settings = "row_settings={drdg: {gan: {n_critic: 5, iterations: 900}, loss: {cycle: 3}}}"
    sweep = plan("drdg,rdg", smoke=True, overrides=("gan.n_critic=5", settings))
    real = plan("drdg,rdg", overrides=("gan.n_critic=5", settings))
    assert sweep.folder == Path(f"{real.folder}-smoke")
    assert sweep.experiment == f"{real.experiment}-smoke"
    for row in ("drdg", "rdg"):
        from drdg.experiments import config_of

        config = config_of(find_row(row), sweep.asked_cells[0].config)
        assert config.gan.iterations == config.segmentation.iterations == 2
        assert config.gan.iterations % config.gan.n_critic == 0
    assert config_of(find_row("drdg"), sweep.asked_cells[0].config).loss.cycle == 3
    key = f"{sweep.directions[0].name}/{SHARDS}"
    assert sweep.jobs[key].digest == real.jobs[key].digest


def test_directions_are_files_or_names_and_have_jobs_of_their_own(tmp_path: Path) -> None:
    turned = tmp_path / "turned.yaml"
    turned.write_text(
        f"base: {DEMO}\n"
        "source: {archive: {kind: vaihingen, root: data/synthetic/Vaihingen}, tile: 128}\n"
        "target: {archive: {kind: potsdam, root: data/synthetic/Potsdam}, tile: 256}\n"
    )
    sweep = make_sweep(Asked(directions=f"demo,{turned}", rows="rdg", seeds="0"))
    assert len(sweep.directions) == 2
    for direction in sweep.directions:
        own = [key for key in sweep.jobs if key.startswith(f"{direction.name}/")]
        assert len(own) == 5
    assert len(sweep.jobs[REPORT].needs) == 2


KNOBS = [
    *("run.name=other", "run.seed=1", "source.tile=128", "source.stride=128", "source.edge=shift", "source.split=some"),
    *("target.stride=128", "target.edge=shift", "target.split=some", "shards.samples_per_shard=2"),
    *("shards.seed=1", "shards.codec=zstd", "shards.zstd_level=2", "dsm.rule=top", "generator.width=3"),
    *("critic.width=3", "loss.cycle=9", "loss.berhu.fraction=0.3", "cyclegan.width=8", "benjdira.width=8"),
    *("dualgan.cycle=400", "output_space.weight=0.5", "mucss.rotation=0.5", "oracle.split=other", "gan.iterations=3"),
    *("gan.workers=1", "gan.log_every=1", "gan.micro_batch=1", "gan.n_critic=2", "distributed.threads=2"),
    *("distributed.processes=1", "translation.batch_size=2", "segmentation.lr=0.1", "segmentation.validation=source"),
    *("segmentation.validation=target", "segmentation.validation_split=other", "evaluation.window=256"),
    *("evaluation.overlap=0.25", "evaluation.split=other", "evaluation.protocol=authors_batch_mean"),
    *("tracking.experiment=else", "sweep.at_once=3", "row_settings={drdg: {loss: {cycle: 4}}}"),
    *("row_settings={rdg: {gan: {generator_lr: 0.01}}}", "row_settings={dualgan: {gan: {iterations: 7}}}"),
    *("row_settings={baseline: {segmentation: {lr: 0.01}}}", "row_settings={drdg: {evaluation: {overlap: 0.1}}}"),
]
# Strides that leave a remainder, so that the edge matters.
EXTRA = (
    "source.stride=48",
    "target.stride=48",
    "source.archive.splits={some: ['0', '1'], val: ['2'], test: ['0']}",
    "segmentation.validation_split=val",
)
SPLITS = "target.archive.splits={val: ['0'], other: ['1'], some: ['1'], test: ['1']}"


def test_a_digest_changes_exactly_when_that_of_the_stage_does(small: Callable[..., Config]) -> None:
    """``drdg/stages/workspace.py``, which knows only finished shards, is the witness."""

    def look(*knobs: str) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
        config = small(*EXTRA, "source.archive.splits.other=['1']", SPLITS, *knobs)
        build_shards(config.source, config.shards, need_label=True)
        build_shards(config.target, config.shards, need_label=False)
        build_shards(labelled_target(config), config.shards, need_label=True)
        # The ceiling learns from TOPs that it is scored on here, which only ``places_of`` would mind.
        oracle = Location(find_shards(labelled_target(config), config.shards, need_label=True))
        source, target = places_of(find_row("baseline"), config)
        ours, theirs = {}, {}
        content = Content(config, {})
        for row in ROWS.values():
            ours |= {(row.name, stage): known for stage, known in stage_digests(row, config, content).items()}
            stages = stages_of(row, config, oracle if row.is_ceiling else source, target)
            theirs |= {(row.name, stage.name): stage.digest for stage in stages.in_order()}
        return ours, theirs

    ours, theirs = look()
    assert ours.keys() == theirs.keys()
    for knob in KNOBS:
        changed_ours, changed_theirs = look(knob)
        changed = {key for key in ours if ours[key] != changed_ours[key]}
        assert changed == {key for key in theirs if theirs[key] != changed_theirs[key]}, knob
    # Rows that share no settings share no digests either, but for stages that are the same by right.
    assert len(set(ours.values())) == len(set(theirs.values()))


def test_what_is_after_a_changed_job_changes_with_it() -> None:
    before = plan("mucss,drdg,rdg_osa,baseline", "0,1")
    for knob in (
        "dualgan.cycle=400",
        "loss.cycle=9",
        "segmentation.lr=0.1",
        "evaluation.overlap=0.25",
        "target.stride=128",
    ):
        after = plan("mucss,drdg,rdg_osa,baseline", "0,1", overrides=(knob,))
        changed = {key for key in before.jobs if before.jobs[key].digest != after.jobs[key].digest}
        assert changed, knob
        for key, job in before.jobs.items():
            if any(need in changed and before.jobs[need].stage != SHARDS for need in job.needs):
                assert key in changed, (knob, key)


def test_a_changed_label_is_scored_again_and_nothing_else(small: Callable[..., Config], tmp_path: Path) -> None:
    import shutil

    config = small()
    copy = tmp_path / "copy"
    shutil.copytree(config.target.archive.root, copy)
    config = small(f"target.archive.root={copy}")
    file = tmp_path / "small.yaml"
    file.write_text(to_yaml(config))

    def look() -> dict[str, str]:
        sweep = make_sweep(Asked(config=str(file), rows="baseline,rdg", seeds="0"))
        return {key: job.digest for key, job in sweep.jobs.items()}

    before = look()
    label = copy / "label/there_0.tif"
    label.write_bytes(label.read_bytes() + b"x")
    after = look()
    assert {key.rpartition("/")[2] for key in before if before[key] != after[key]} == {"evaluate", REPORT}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rows": "drgd"}, ["--rows", "'drgd'", "did you mean 'drdg'"]),
        ({"rows": "drdg,drdg"}, ["drdg is named twice"]),
        ({"rows": "drdg,"}, ["empty entry"]),
        ({}, ["--ablation", "--table1", "--rows"]),
        ({"rows": "drdg", "ablation": True}, ["--rows", "alone"]),
        ({"rows": "drdg", "seeds": "0,1,0"}, ["--seeds", "0 is named twice"]),
        ({"rows": "drdg", "seeds": "0,00"}, ["--seeds", "0 is named twice"]),
        ({"rows": "drdg", "seeds": "one"}, ["--seeds", "'one'", "whole numbers"]),
        ({"rows": "drdg", "seeds": "-1"}, ["--seeds", "'-1'"]),
        ({"rows": "drdg", "name": "../up"}, ["--name", "'../up'"]),
        ({"rows": "drdg", "name": "x" * 200}, ["too long"]),
        ({"rows": "drdg", "config": None, "directions": "dmo"}, ["configs/dmo.yaml", "'demo'"]),
        ({"rows": "drdg", "directions": "demo"}, ["--config", "--directions"]),
        ({"rows": "drdg", "overrides": ("gan.batch_sise=2",)}, ["gan.batch_sise", "did you mean"]),
        ({"rows": "drdg", "overrides": ("row_settings={drgd: {}}",)}, ["row_settings.drgd", "'drdg'"]),
    ],
)
def test_what_does_not_make_sense_is_one_sentence(asked: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        make_sweep(Asked(**{"config": DEMO, **asked}))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_two_files_of_one_direction_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "again.yaml"
    other.write_text(f"base: {DEMO}\ngan: {{iterations: 7}}\n")
    with pytest.raises(
        ValueError, match=r"demo\.yaml and .*again\.yaml are both of direction synthetic_potsdam_irrg_to_"
    ):
        make_sweep(Asked(directions=f"demo,{other}", rows="rdg"))


@pytest.mark.parametrize(
    ("overrides", "cluster", "words"),
    [
        (["source.archive.dsm=null"], False, ["here", "no DSM", "row drdg"]),
        (["evaluation.split=nothing"], False, ["no split 'nothing'"]),
        (["target.archive.label=null"], False, ["has no label"]),
        (["source.archive.root=/nowhere"], False, ["/nowhere", "archive.root"]),
        (["oracle.split=all"], False, ["oracle.split=all", "scored on what it has learned"]),
        (["sweep.gan.processes=2", "gan.batch_size=3"], True, ["gan.batch_size=3", "2 ranks", "gan.batch_size=4"]),
        (["sweep.gan.nodes=3", "gan.batch_size=2"], True, ["3 nodes of 1"]),
    ],
)
def test_what_would_fail_hours_later_is_refused(
    overrides: list[str], cluster: bool, words: list[str], small: Callable[..., Config], tmp_path: Path
) -> None:
    config = small(
        SPLITS.replace("test: ['1']", "test: ['1', '0']") if "oracle" in overrides[0] else SPLITS, *overrides
    )
    file = tmp_path / "bad.yaml"
    file.write_text(to_yaml(config))
    with pytest.raises(ValueError) as caught:
        refuse_what_cannot_work(make_sweep(Asked(config=str(file), rows="drdg,oracle", seeds="0")), on_cluster=cluster)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_good_sweep_is_not_refused(small: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(to_yaml(small(SPLITS, "sweep.gan.processes=2", "gan.batch_size=4")))
    names = ",".join(ROWS)
    refuse_what_cannot_work(make_sweep(Asked(config=str(file), rows=names, seeds="0")), on_cluster=True)
    # Towns that are yet to be generated lack nothing.
    refuse_what_cannot_work(plan(names), on_cluster=True)
    assert load_config(str(file)) == small(SPLITS, "sweep.gan.processes=2", "gan.batch_size=4")
