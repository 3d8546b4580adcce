"""Station 4, training: what ends a training ends it on all ranks, at the same iteration and with the same error.

At each iteration's end a rank has one number to tell, and of several the largest is heard: a loss that is not finite,
of these the earliest; then that rank 0 could not write a file; then a signal that asks to stop. A rank tells what it
has to tell until it is heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from torch import Tensor

from drdg.distributed.agreement import Agreement
from drdg.distributed.group import Group
from drdg.training.checkpoint import newest_step
from drdg.training.finite import FiniteLosses
from drdg.training.writer import Writer

WRITE_FAILED = 1000  # above the numbers of all signals
PHASES = 1000
NOT_FINITE = 2**62  # within 64 bits, and so far above the others that it takes 10**15 iterations to come near


class Accord:
    """The ranks of one training, by their losses and by rank 0's ``writer``. Every call is for all ranks together.

    ``phases`` are their names as people know them; ``cure`` says what helps when a loss is not finite.
    """

    def __init__(self, group: Group, timeout: timedelta, writer: Writer, phases: Sequence[str], cure: str):
        self.writer, self.phases, self.cure = writer, phases, cure
        self._losses = FiniteLosses(group.device)
        self._agreement = Agreement(group, timeout)

    def look(self, iteration: int, losses: dict[int, Tensor]) -> None:
        """Look at this rank's losses () of an ``iteration``, from 1, by the numbers of their phases."""
        # First for the others: where one is gone, a GPU may never get to where this rank would wait for it next.
        self._agreement.wait()
        self._losses.add(iteration, losses)

    def hear(self, asked: int) -> int:
        """Tell that this rank was ``asked`` to stop by the signal of that number, if not 0, and return the signal that
        any was asked by an iteration ago, or 0. Raises ``FloatingPointError`` for a loss that is not finite, and
        rank 0's own error where that could not write.
        """
        heard = self._agreement.ask(self._to_tell() or asked)
        self._heed(heard)
        return heard

    def settle(self) -> None:
        """Raise at once what :meth:`hear` would raise an iteration later. Signals are told again after it."""
        self._losses.finish()
        self._heed(max(self._agreement.ask(self._to_tell()), self._agreement.close()))

    def settle_writing(self) -> None:
        """Wait until what rank 0 writes is written, or raise why it is not."""
        self.writer.wait()
        self.settle()

    def diverged(self, what: str) -> FloatingPointError:
        """The error of a training that is past saving, in a sentence that begins with ``what``."""
        self.writer.wait()
        folder = self.writer.folder
        saved = self._agreement.of_first(newest_step(folder))
        last = "there is no checkpoint yet" if saved is None else f"the last good checkpoint is of iteration {saved}"
        return FloatingPointError(f"{what}; {last}, in {folder}; {self.cure} in a run of another name")

    def close(self) -> None:
        """Wait for what ranks have told and nobody will ask for."""
        self._agreement.close()

    def _to_tell(self) -> int:
        if self._losses.first_bad is not None:
            iteration, phase = self._losses.first_bad
            return NOT_FINITE - (iteration * PHASES + phase)
        return 0 if self.writer.error is None else WRITE_FAILED

    def _heed(self, heard: int) -> None:
        if heard == WRITE_FAILED:
            error = self._agreement.of_first(_as_sent(self.writer.error))
            assert error is not None, "a write has failed and did not"
            raise error from self.writer.error
        if heard > WRITE_FAILED:
            iteration, phase = divmod(NOT_FINITE - heard, PHASES)
            raise self.diverged(f"{self.phases[phase]}/loss is not finite at iteration {iteration}")


def _as_sent(error: BaseException | None) -> Exception | None:
    """What rank 0 gives the others of an error, so that they end as it does."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    return None if error is None else RuntimeError(f"a file could not be written: {type(error).__name__}: {error}")
