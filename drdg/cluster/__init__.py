"""Station 6, cluster: where a sweep's jobs run: on Slurm, on this machine, or in this process. Nothing else of ours
imports submitit.
"""
