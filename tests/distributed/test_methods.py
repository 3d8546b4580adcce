"""Every method gives the same networks on any number of ranks, by DDP and DeepSpeed, and when others continue it."""

from __future__ import annotations

from collections.abc import Callable

from runs import Runs, distances

JOBS = {
    **{name: {"translator": name} for name in ("cyclegan", "benjdira", "dualgan")},
    **{name: {"objective": name} for name in ("source_only", "output_space", "mucss")},
}
NARROW = (
    *(f"{method}.{knob}=2" for method in ("cyclegan", "benjdira", "dualgan") for knob in ("width", "critic_width")),
    # CycleGAN's pool has room for two images a lane here, so after two iterations it gives back old ones.
    *("cyclegan.blocks=1", "cyclegan.pool=8", "gan.batch_size=4", "gan.n_critic=1", "gan.iterations=6"),
    *("output_space.width=2", "mucss.confidence=0.2", "segmentation.batch_size=4", "segmentation.iterations=4"),
    *("gan.schedule.kind=linear", "segmentation.schedule.kind=linear"),
)
# Benjdira's norms come after the activations. Where all pixels of a channel have one sign, its norm takes away the bias
# before it, whose gradient is then rounding noise of 1e-13; Adam divides it by 1e-8 and multiplies it by 5e-4.
NOISE = {"benjdira": 1e-8}
EXACT = ("gan.precision=float64", "segmentation.precision=float64")


def test_ranks_backends_and_restarts_change_no_method(runs: Callable[..., Runs]) -> None:
    plan = runs(*NARROW)
    for name, job in JOBS.items():
        plan.add(f"{name} alone", "single", 1, *EXACT, **job)
    for name, job in JOBS.items():
        plan.add(f"{name} on 2, stopped", "ddp", 2, *EXACT, until=2, **job)
        plan.add(f"{name} on 2 in float32", "ddp", 2, **job)
    for name, job in JOBS.items():
        plan.add(f"{name} on 4", "ddp", 4, *EXACT, after=f"{name} on 2, stopped", **job)
    for name, job in JOBS.items():
        plan.add(f"{name} by zero1", "zero1", 2, **job)
    plan.do()

    exact = {name: distances(plan.networks(f"{name} alone"), plan.networks(f"{name} on 4")) for name in JOBS}
    worst = {name: apart.max().item() for name, apart in exact.items()}
    assert {name for name, apart in worst.items() if apart > NOISE.get(name, 1e-11)} == set(), worst
    # A sum of two gradients does not depend on who makes it.
    backends = {
        name: distances(plan.networks(f"{name} on 2 in float32"), plan.networks(f"{name} by zero1")) for name in JOBS
    }
    worst = {name: apart.max().item() for name, apart in backends.items()}
    assert {name for name, apart in worst.items() if apart > 1e-6} == set(), worst
    # Not because nothing moves, or all objectives are one.
    for name in ("output_space", "mucss"):
        assert distances(plan.networks("source_only alone"), plan.networks(f"{name} alone")).max() > 1e-5
