"""Station 6, tracking: which version of the source a run was made by."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

COMMIT, DIRTY = "drdg.git_commit", "drdg.git_dirty"
UNKNOWN = "unknown"
PATIENCE_S = 30.0


def git_state(root: Path) -> dict[str, str]:
    """Tags with the commit of the checkout that ``root`` is in, and whether it was changed since (``true``, ``false``).

    Both are ``unknown`` where there is no git or no checkout, or where git does not answer.
    """
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    # Only what git keeps: results and data lie in the checkout, too.
    changed = None if commit is None else _git(root, "status", "--porcelain", "--untracked-files=no")
    dirty = UNKNOWN if changed is None else str(bool(changed)).lower()
    return {COMMIT: commit or UNKNOWN, DIRTY: dirty}


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None."""
    # It asks nobody anything, and refreshes no index, which a job beside it may be about to write.
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
