"""Station 3, methods: what a sample's random numbers are for; each use has its own key."""

from __future__ import annotations

CRITIC_PHASE, GENERATOR_PHASE, SOURCE_POOL, TARGET_POOL = range(1, 5)
# Within a phase:
TO_TARGET, TO_SOURCE, BACK_TO_SOURCE, BACK_TO_TARGET, MIX_SOURCE, MIX_TARGET = range(1, 7)
