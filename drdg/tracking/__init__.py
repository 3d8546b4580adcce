"""Station 6, tracking: what is kept of a run, in MLflow. Nothing else of ours imports MLflow.

One parent run per pipeline, one nested run per stage. A run is found again by its tags (``IDENTITY``), so a stage that
is run again continues its run instead of leaving a second one beside it, and values it logs a second time are not
doubled. Only rank 0 writes; another process, such as the ranks that a stage starts, joins the run by its id.

A store that is away is no error to who names a *spool*: what it should get then waits on disk for :func:`sync`.

MLflow is imported when a ``Tracking`` is made, not before: it takes three seconds and no command's ``--help`` needs it.
"""

from drdg.tracking.base import Dataset, Handle, NullHandle
from drdg.tracking.models import log_generator, log_segmentor, register_best
from drdg.tracking.names import clean_name, flatten
from drdg.tracking.registry import fetch_model
from drdg.tracking.run_handle import RunHandle
from drdg.tracking.runs import Tracking, inherited_run_id
from drdg.tracking.source import git_state
from drdg.tracking.spool import SPOOL_VARIABLE, SpoolHandle
from drdg.tracking.store import IDENTITY, RUN_VARIABLE, URI_VARIABLE, Store
from drdg.tracking.sync import sync
from drdg.tracking.system import watch_system

__all__ = [
    "IDENTITY",
    "RUN_VARIABLE",
    "SPOOL_VARIABLE",
    "URI_VARIABLE",
    "Dataset",
    "Handle",
    "NullHandle",
    "RunHandle",
    "SpoolHandle",
    "Store",
    "Tracking",
    "clean_name",
    "fetch_model",
    "flatten",
    "git_state",
    "inherited_run_id",
    "log_generator",
    "log_segmentor",
    "register_best",
    "sync",
    "watch_system",
]
