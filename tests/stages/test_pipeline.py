"""The whole path on tiny archives: what it leaves behind, what it skips, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from mlflow import MlflowClient
from safetensors.torch import load_file

from drdg.config import Config, to_yaml
from drdg.experiments import ROWS, find_row
from drdg.shards.build import build_shards
from drdg.shards.store import ShardStore
from drdg.stages.pipeline import describe, run_one_stage, run_pipeline
from drdg.training.checkpoint import load_newest

REPOSITORY = Path(__file__).parents[2]


# So narrow that every method's two iterations take seconds, with a split for the ceiling to learn from.
NARROW = (
    *(f"{method}.{knob}=2" for method in ("cyclegan", "benjdira", "dualgan") for knob in ("width", "critic_width")),
    *("cyclegan.blocks=1", "output_space.width=2"),
    *('target.archive.splits={val: ["1"], test: ["0"]}', "evaluation.split=test"),
)


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.pt")}


def test_every_row_ends_in_one_table_with_its_pictures_and_its_mlflow_runs(small: Callable[..., Config]) -> None:
    rows = list(ROWS)
    config = small(f"run.rows=[{','.join(rows)}]", *NARROW)
    report = json.loads(run_pipeline(config).read_text())
    folder = config.run.directory
    assert set(report["rows"]) == set(rows)
    for name in rows:
        scores = report["rows"][name]
        assert set(scores["iou"]) <= set(report["classes"])
        assert scores["miou"] == pytest.approx(np.mean(list(scores["iou"].values())))
        assert 0 <= scores["miou"] <= 100
        assert {path.name for path in (folder / name / "evaluate/maps").iterdir()} == {"0.tif"}
    with rasterio.open(folder / "drdg/evaluate/maps/0.tif") as predicted:
        assert predicted.crs.to_epsg() == 32632
        assert (predicted.height, predicted.width) == (192, 192)
    pictures = {path.name for path in (folder / "panels").iterdir()}
    assert {"target_0.png", "translation_drdg.png", "translation_cyclegan.png"} <= pictures

    client = MlflowClient(f"sqlite:///{folder.absolute()}/mlflow.db")
    experiment = client.get_experiment_by_name("drdg")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["drdg"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    stages = {run.info.run_name for run in children}
    assert len(children) == len(stages) == 1 + 6 * 2 + 3 + 8 * 4
    shards = next(run for run in children if run.info.run_name == "shards")
    assert shards.data.metrics == {"shards/source_tiles": 12, "shards/target_tiles": 8, "shards/oracle_tiles": 4}
    assert {"baseline/segment", "baseline_rescaled/translate", "drdg/gan", "drdg/evaluate"} <= stages
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["drdg.seed"] == "0"
        in_turn = run.data.tags.get("drdg.row") in ("cyclegan", "benjdira")
        assert run is shards or run.data.params["gan.n_critic"] == ("1" if in_turn else "5")
    gan = next(run for run in children if run.info.run_name == "drdg/gan")
    assert {"gan/critic/loss", "gan/generator/loss", "gan/generator/depth_supervised"} <= set(gan.data.metrics)
    scored = next(run for run in children if run.info.run_name == "drdg/evaluate")
    assert scored.data.metrics["target/miou_percent"] == pytest.approx(report["rows"]["drdg"]["miou"])
    artifacts = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"config.yaml", "report.json", "report.md", "panels"} <= artifacts


def test_translated_shards_keep_keys_labels_and_place(small: Callable[..., Config]) -> None:
    config = small("run.rows=[baseline_rescaled]")
    run_pipeline(config)
    source = ShardStore(next(config.shards.root.glob("here-*")))
    translated = ShardStore(config.run.directory / "baseline_rescaled/translate/shards")
    assert len(source) == len(translated)
    for index in (0, len(source) - 1):
        before, after = source[index], translated[index]
        assert after.key == before.key
        assert before.label is not None
        assert after.label is not None
        assert after.image.shape == (128, 128, 3)
        assert np.array_equal(after.label, before.label[1::2, 1::2])  # the pixel under the centre of each 2 x 2 block
        assert after.meta["gsd_m"] == pytest.approx(2 * before.meta["gsd_m"])
        assert after.meta["transform"][2] == before.meta["transform"][2]
        blocks = before.image.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
        assert np.abs(after.image[8:-8, 8:-8] - blocks[8:-8, 8:-8]).mean() < 12  # antialiasing looks a pixel further


def test_what_is_done_is_not_done_again_and_a_change_is_not_mixed_in(
    small: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("run.rows=[baseline]")
    run_pipeline(config)
    before = stamps(config.run.directory)
    assert before
    run_pipeline(config)
    assert stamps(config.run.directory) == before
    assert "done before" in capsys.readouterr().out
    run_pipeline(small("run.rows=[baseline]", "segmentation.workers=1"))  # a place or pace is no change
    assert stamps(config.run.directory) == before
    with pytest.raises(ValueError, match=r"run\.name"):
        run_pipeline(small("run.rows=[baseline]", "segmentation.lr=0.1"))
    assert stamps(config.run.directory) == before


def test_stages_run_one_by_one_and_in_order(small: Callable[..., Config]) -> None:
    config = small()
    row = find_row("drdg")
    with pytest.raises(ValueError, match=r"shards/build\.py"):
        run_one_stage(config, row, "translate")
    run_pipeline(small("run.rows=[baseline]"))  # builds the shards
    with pytest.raises(ValueError, match="the stage gan of row drdg first"):
        run_one_stage(config, row, "segment")
    for name in ("gan", "translate", "segment", "evaluate"):
        run_one_stage(config, row, name)
    assert (config.run.directory / "drdg/evaluate/metrics.json").is_file()
    with pytest.raises(ValueError, match="has no stage gan"):
        run_one_stage(config, find_row("baseline"), "gan")


def test_two_ranks_started_here_equal_one_of_two_pairs(small: Callable[..., Config], tmp_path: Path) -> None:
    networks = []
    for name, ranks in (("one", 1), ("two", 2)):
        settings = ["gan.batch_size=2", f"distributed.processes={ranks}", "gan.precision=float64"]
        config = small(*settings, f"run.name={name}", "run.rows=[drdg]")
        run_pipeline(config)
        networks.append(load_file(config.run.directory / "drdg/gan/translator.safetensors"))
    worst = max((networks[0][name] - networks[1][name]).abs().max().item() for name in networks[0])
    assert worst <= 1e-12


def test_a_segmentor_on_two_ranks_validates_and_learns_as_on_one(small: Callable[..., Config]) -> None:
    """Three TOPs of the source, so that ranks score different numbers of them."""
    networks, validated = [], []
    for name, ranks in (("one", 1), ("two", 2)):
        settings = [f"distributed.segmentor_processes={ranks}", "segmentation.precision=float64", f"run.name={name}"]
        knobs = ["segmentation.validation=source", "segmentation.validation_split=all", "segmentation.checkpoint=best"]
        config = small(*settings, *knobs, *NARROW, "run.rows=[adaptsegnet]")
        run_pipeline(config)
        networks.append(load_file(config.run.directory / "adaptsegnet/segment/segmentor.safetensors"))
        client = MlflowClient(f"sqlite:///{config.run.directory.absolute()}/mlflow.db")
        runs = client.search_runs([client.get_experiment_by_name("drdg").experiment_id])
        run = next(run for run in runs if run.info.run_name == "adaptsegnet/segment")
        validated.append(run.data.metrics["segment/validation/miou"])
    # They are kept in float32, so two that differ by rounding in float64 may differ by its last bit.
    worst = max((networks[0][name] - networks[1][name]).abs().max().item() for name in networks[0])
    assert worst <= 1e-6
    assert validated[0] == validated[1]


def test_the_ceiling_is_not_scored_on_what_it_learned_from(small: Callable[..., Config]) -> None:
    config = small(*NARROW, "oracle.split=test", "run.rows=[oracle]")
    with pytest.raises(ValueError, match="share the TOP 0, so the row oracle would be scored on what it has learned"):
        run_pipeline(config)
    with pytest.raises(ValueError, match="share the TOP 0"):
        run_one_stage(config, find_row("oracle"), "segment")


def test_a_row_that_cannot_be_made_is_refused_before_the_first_begins(small: Callable[..., Config]) -> None:
    config = small(*NARROW, "run.rows=[baseline,cyclegan]", "gan.batch_size=2", "gan.micro_batch=1")
    with pytest.raises(
        ValueError, match=r"gan.micro_batch=1 would take apart the batch that the image pool is kept by"
    ):
        run_pipeline(config)
    config = small(*NARROW, "run.rows=[baseline,mucss]", "row_settings={mucss: {segmentation: {crop: 4096}}}")
    with pytest.raises(ValueError, match=r"segmentation.crop=4096 is larger than target.tile"):
        run_pipeline(config)
    assert not config.run.directory.exists()


def test_ranks_that_a_launcher_starts_train_into_one_mlflow_run(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small("gan.batch_size=2", "run.rows=[drdg]")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    for domain, need_label in ((config.source, True), (config.target, False)):
        build_shards(domain, config.shards, need_label=need_label)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [str(REPOSITORY / "launch/train.py"), "--row", "drdg", "--config", str(path)]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (config.run.directory / "drdg/gan/done.json").is_file()
    client = MlflowClient(f"sqlite:///{config.run.directory.absolute()}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("drdg").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["drdg", "drdg/gan"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    gan = next(run for run in runs if run.info.run_name == "drdg/gan")
    assert "gan/generator/depth_supervised" in gan.data.metrics
    run_one_stage(config, find_row("drdg"), "translate")  # the weights are the same stage's, whoever started the ranks


def test_the_commands_work_and_say_what_they_would_do(small: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(small("run.rows=[baseline]")))

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, str(REPOSITORY / command), "--config", str(path), *arguments]
        return subprocess.run(whole, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    dry = run("launch/pipeline.py", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "row baseline" in dry.stdout
    printed = run("launch/pipeline.py", "--print-config", "run.seed=5")
    assert "seed: 5" in printed.stdout
    for command in ("train", "translate", "segment", "evaluate"):
        done = run(f"launch/{command}.py", "--dry-run", "--row", "drdg", "run.seed=5")
        assert done.returncode == 0, done.stderr
        assert "drdg" in done.stdout
    early = run("launch/train.py", "--row", "drdg")
    assert early.returncode == 2
    assert early.stderr.startswith("error: ")
    assert "shards/build.py" in early.stderr
    for wrong in (("--row", "drgd"), ("gan.nn=1",)):
        refused = run("launch/train.py", *wrong)
        assert refused.returncode == 2
        assert "did you mean" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_what_a_stage_would_miss_later_is_refused_now(small: Callable[..., Config], archives: Path) -> None:
    with pytest.raises(ValueError, match="no DSM") as error:
        run_pipeline(small("target.archive.dsm=null"))
    assert "run.rows" in str(error.value)
    with pytest.raises(ValueError, match="label"):
        run_pipeline(small("source.archive.label=null"))
    with pytest.raises(ValueError, match="classes"):
        run_pipeline(small("target.archive.classes={road: [255, 255, 255]}"))
    with pytest.raises(ValueError, match="did you mean 'rdg'"):
        run_pipeline(small("run.rows=[rdq]"))
    with pytest.raises(ValueError, match="nowhere"):
        run_pipeline(small(f"source.archive.root={archives / 'nowhere'}"))
    with pytest.raises(ValueError, match="no window"):
        run_pipeline(small("source.tile=384"))


def test_a_row_without_depth_needs_no_dsm(small: Callable[..., Config]) -> None:
    config = small("source.archive.dsm=null", "target.archive.dsm=null", "run.rows=[rdg]")
    assert run_pipeline(config).is_file()


def test_new_content_of_the_scored_images_is_scored_anew(small: Callable[..., Config], archives: Path) -> None:
    there = small().run.root.parent / "there"
    shutil.copytree(archives / "there", there)
    settings = ("run.rows=[baseline]", f"target.archive.root={there}")
    config = small(*settings)
    run_pipeline(config)
    label = there / "label/there_0.tif"
    shutil.copy(archives / "there/label/there_1.tif", label)
    with pytest.raises(ValueError, match="another configuration"):
        run_pipeline(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("segmentation.crop=160", "target.tile=128"),
        ("segmentation.encoder=resnet_34", "resnet34"),
        ("segmentation.validation=source", "val"),
        ("segmentation.encoder_weights=/nowhere/weights.pt", "/nowhere/weights.pt"),
        ("run.rows=[drdg,drdg]", "drdg is named twice"),
        ("run.rows=[]", "run.rows"),
        ("run.name=../elsewhere", "run.name"),
        ("gan.batch_size=1", "gan.batch_size"),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_begins(
    small: Callable[..., Config], override: str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        run_pipeline(small("run.rows=[drdg]", "distributed.processes=2", "gan.batch_size=2", override))
    assert "\n" not in str(error.value)
    assert not list(small().run.directory.rglob("*.pt"))


def test_ctrl_c_while_ranks_train_ends_in_one_line_and_the_same_command_continues(
    small: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    settings = ("run.rows=[drdg]", "distributed.processes=2", "gan.batch_size=2")
    slow = small(*settings, "gan.iterations=100000", "gan.checkpoint_every=1")
    path.write_text(to_yaml(slow))
    command = [sys.executable, str(REPOSITORY / "launch/pipeline.py"), "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as process:
        checkpoints = slow.run.directory / "drdg/gan/checkpoints"
        while not list(checkpoints.glob("*.sha256")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "error: stopped; the same command continues where it was"
    newest = load_newest(checkpoints)
    assert newest is not None
    done = newest["iteration"] + 1
    run_pipeline(small(*settings, f"gan.iterations={done}"))
    last = load_newest(checkpoints)
    assert last is not None
    assert last["iteration"] == done


def test_the_plan_names_every_stage(small: Callable[..., Config]) -> None:
    text = describe(small("run.rows=[baseline,drdg]"))
    assert "row baseline: segment -> evaluate" in text
    assert "row drdg: gan -> translate -> segment -> evaluate" in text
