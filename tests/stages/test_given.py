"""A domain whose shards were built elsewhere: what is built, what need not be there, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drdg.config import Config, digest, to_yaml
from drdg.experiments import find_row
from drdg.shards.build import build_shards
from drdg.stages.given import find_given
from drdg.stages.pipeline import describe, run_one_stage, run_pipeline

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def place(small: Callable[..., Config], tmp_path: Path) -> str:
    """A command that gives the source's shards, built where no run looks for them."""
    config = small(f"shards.root={tmp_path / 'elsewhere'}")
    return f"pipe:cat '{build_shards(config.source, config.shards, need_label=True)}/{{}}'"


def weights(config: Config, row: str) -> dict[str, torch.Tensor]:
    return load_file(config.run.directory / row / "gan/translator.safetensors")


def test_a_run_on_given_shards_is_the_run_on_built_ones(
    small: Callable[..., Config], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "run.rows=[baseline,drdg]"
    built = small(rows, "run.name=built")
    run_pipeline(built)
    given = small(
        rows,
        "run.name=given",
        f"source.shards={place}",
        f"shards.cache={tmp_path / 'cache'}",
        f"shards.root={tmp_path / 'own'}",
        f"source.archive.root={tmp_path / 'nowhere'}",
    )
    assert digest(given) == digest(built)
    report = json.loads(run_pipeline(given).read_text())
    assert [path.name.split("-")[0] for path in (tmp_path / "own").iterdir()] == ["there"]
    assert set(report["rows"]) == {"baseline", "drdg"}
    here, there = weights(built, "drdg"), weights(given, "drdg")
    assert all(torch.equal(here[name], there[name]) for name in here)
    for stage in ("gan", "translate", "segment", "evaluate"):
        one, other = (json.loads((run.run.directory / f"drdg/{stage}/done.json").read_text()) for run in (built, given))
        assert one == other
    capsys.readouterr()
    run_one_stage(given, find_row("drdg"), "evaluate")
    assert "done before" in capsys.readouterr().out
    assert f"source: shards at {place}" in describe(given)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source.tile=128", "was built with tile=256, but source.tile is 128"),
        ("source.stride=128", "source.stride is 128"),
        ("source.edge=shift", "source.edge is shift"),
        ("source.split=test", "source.split is test"),
        ("source.archive.name=hither", "was built with archive=here, but source.archive is hither"),
        ("source.archive.classes={road: [1, 2, 3]}", "source.classes is road"),
    ],
)
def test_shards_that_are_not_what_is_asked_for_are_refused(
    small: Callable[..., Config], place: str, override: str, words: str
) -> None:
    settings = (f"source.shards={place}", f"shards.cache={small().shards.root / 'cache'}")
    assert list(find_given(small(*settings))) == ["source"]
    with pytest.raises(ValueError, match=words) as error:
        run_pipeline(small(*settings, override))
    assert str(error.value).startswith(f"source.shards={place}: ")
    assert "; " in str(error.value)
    assert not small().run.directory.exists()


def test_shards_without_labels_or_heights_are_refused_where_they_are_needed(
    small: Callable[..., Config], tmp_path: Path
) -> None:
    config = small(f"shards.root={tmp_path / 'elsewhere'}", "source.archive.dsm=null", "target.archive.dsm=null")
    flat = build_shards(config.source, config.shards, need_label=True)
    with pytest.raises(ValueError, match=r"has no DSM, which row drdg needs; .*run\.rows=\[baseline,rdg\]"):
        run_pipeline(small(f"source.shards={flat}"))
    blank = build_shards(config.source, config.shards, need_label=False)
    with pytest.raises(ValueError, match="has no labels, which a source needs"):
        run_pipeline(small(f"source.shards={blank}"))
    target = build_shards(config.target, config.shards, need_label=False)
    given = find_given(small(f"target.shards={target}"))
    assert list(given) == ["target"]


def test_the_build_leaves_a_given_domain_alone(small: Callable[..., Config], place: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    settings = (f"source.archive.root={tmp_path / 'nowhere'}", f"shards.root={tmp_path / 'own'}")
    path.write_text(to_yaml(small(*settings)))
    for more in (["--dry-run"], []):
        command = [sys.executable, str(REPOSITORY / "shards/build.py"), "--config", str(path), *more]
        done = subprocess.run([*command, f"source.shards={place}"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"source: given, at {place}" in done.stdout
        assert "there-" in done.stdout
    assert [folder.name.split("-")[0] for folder in (tmp_path / "own").iterdir()] == ["there"]
