"""Station 6, doctor: what would make a job on these nodes hang or crawl, found out before the job does.

Rank 0 asks (``desk.py``), every rank answers (``guest.py``) by plain TCP: before torch is loaded, and without a
collective, so that a cluster on which those hang still gets its page. A check is a file: what is measured on a rank
(``probe``) and what the answers of all ranks mean (``judge``, a pure function). ``steps.py`` lists the probes,
``examination.py`` the order of the checks, ``page.py`` shows what was found.
"""
