"""Station 4, training: the loop, checkpoints, preemption, running means."""
