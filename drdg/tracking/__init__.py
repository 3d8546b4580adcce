"""Station 6, tracking: what is kept of a run, in MLflow. Nothing else of ours imports MLflow.

One parent run per pipeline, one nested run per stage. A run is found again by its tags (``IDENTITY``), so a stage that
is run again continues its run instead of leaving a second one beside it, and values it logs a second time are not
doubled. Only rank 0 writes; another process, such as the ranks that a stage starts, joins the run by its id.

MLflow is imported when a ``Tracking`` is made, not before: it takes three seconds and no command's ``--help`` needs it.
"""

from drdg.tracking.handle import Handle, NullHandle, RunHandle
from drdg.tracking.names import clean_name, flatten
from drdg.tracking.registry import fetch_model
from drdg.tracking.runs import Tracking, inherited_run_id
from drdg.tracking.store import IDENTITY, RUN_VARIABLE, URI_VARIABLE, Store

__all__ = [
    "IDENTITY",
    "RUN_VARIABLE",
    "URI_VARIABLE",
    "Handle",
    "NullHandle",
    "RunHandle",
    "Store",
    "Tracking",
    "clean_name",
    "fetch_model",
    "flatten",
    "inherited_run_id",
]
