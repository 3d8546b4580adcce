"""Station 7, bench: what the suite takes beside its peers, measured in the same run (``launch/bench.py``)."""
