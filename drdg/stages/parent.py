"""Station 6, stages: a rank that does not outlive the process which started it.

Whoever starts that process's job again must not find ranks of the earlier start at work on the same files.
"""

from __future__ import annotations

import os
import signal
import threading
import time

STARTED_BY = "DRDG_STARTED_BY"
"""The variable with the number of the process that starts ranks."""
POLL_S = 0.5


def die_with_parent() -> None:
    """End this process, from now on, when the one that has started it as a rank is gone; no other has."""
    parent = int(os.environ.get(STARTED_BY) or 0)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGKILL)  # it may hang in a collective, and what it has saved is whole

    if parent:
        threading.Thread(target=look, name="parent", daemon=True).start()
