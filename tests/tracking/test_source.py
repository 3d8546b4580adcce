"""A run says of which version of the source it is, where that can be known."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from drdg.tracking import git_state

UNKNOWN = {"drdg.git_commit": "unknown", "drdg.git_dirty": "unknown"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    root = tmp_path / "a checkout"
    (root / "deep").mkdir(parents=True)
    (root / "file").write_text("one")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "first")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *words], check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()


def test_a_checkout_says_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"drdg.git_commit": commit, "drdg.git_dirty": "false"}
    (checkout / "result").write_text("not git's business")
    assert git_state(checkout / "deep") == {"drdg.git_commit": commit, "drdg.git_dirty": "false"}
    (checkout / "file").write_text("two")
    assert git_state(checkout) == {"drdg.git_commit": commit, "drdg.git_dirty": "true"}


def test_without_a_checkout_or_git_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == UNKNOWN
    assert git_state(tmp_path / "nowhere") == UNKNOWN
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == UNKNOWN
    assert capfd.readouterr() == ("", "")


def test_a_checkout_without_a_commit_is_unknown(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == UNKNOWN


def test_a_git_that_does_not_answer_is_left(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("git", 1)

    monkeypatch.setattr("drdg.tracking.source.subprocess.run", hang)
    assert git_state(checkout) == UNKNOWN
