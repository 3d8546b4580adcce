"""Station 6, sweep: which jobs there are, what each needs, what has become of each, and what is shown of it.

Nothing here starts anything; ``drdg.cluster`` does. Nothing here loads torch, so that a plan is there at once.
"""
