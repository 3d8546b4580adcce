"""Station 3, ranks: DeepSpeed's JSON, and what of it is not its to say. Does not load DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# DeepSpeed's keys for what the configuration says already, and where it does.
OURS = {
    "optimizer": "gan.generator_lr, gan.generator_betas and gan.critic_lr say it",
    "scheduler": "gan.schedule says it",
    "gradient_clipping": "the paper's recipe clips nothing",
    "train_batch_size": "gan.batch_size says it",
    "train_micro_batch_size_per_gpu": "gan.batch_size and gan.micro_batch say it",
    "gradient_accumulation_steps": "gan.micro_batch says it",
    "managed_gradient_accumulation": "gan.micro_batch says it",
    "bf16": "gan.precision says it",
    "bfloat16": "gan.precision says it",
    "fp16": "gan.precision says it",
    "amp": "gan.precision says it",
    "torch_autocast": "gan.precision says it",
}
STAGES = (0, 1, 2)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in ``path`` (``distributed.deepspeed``).

    Raises ``ValueError`` when there is no such file, when it is no JSON object, or when it sets what is not its to set.
    """
    if not path.is_file():
        raise ValueError(
            f"distributed.deepspeed={path}: no such file; name one by its path from here, such as the checkout's "
            "configs/deepspeed/zero1.json"
        )
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:  # also bytes that are no UTF-8
        raise ValueError(f"{path}: is no JSON ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}), dict):
        raise ValueError(f"{path}: must be an object of DeepSpeed's keys, zero_optimization among them an object too")
    for key in settings:
        if key in OURS:
            raise ValueError(f"{path}: remove {key}; {OURS[key]}")
    _refuse_unsupported(path, settings.get("zero_optimization", {}))
    return settings


def stage_of(settings: dict[str, Any]) -> int:
    """The ZeRO stage that settings ask for."""
    return settings.get("zero_optimization", {}).get("stage", 0)


def complete(settings: dict[str, Any], *, micro_batches: int, bfloat16: bool) -> dict[str, Any]:
    """The settings with what the configuration says and with what makes DeepSpeed compute what the others do."""
    zero = dict(settings.get("zero_optimization", {}))
    if stage_of(settings) > 0:
        # Nothing reads the norm. It costs a reduction and waits for the device, and where it is not finite DeepSpeed
        # leaves out the step without a word: the loss would look well and the weights would stand still. So too for
        # bfloat16's check below. The loop finds what is not finite, with every backend.
        zero["compute_grad_norm"] = False
    return {
        **settings,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own count of samples, which nothing reads
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": 0.0,  # its default is 1.0
        "bf16": {"enabled": bfloat16, "check_grad_overflow": False},
        "zero_allow_untested_optimizer": True,  # RMSprop works on any piece of the weights as Adam does
    }


def _refuse_unsupported(path: Path, zero: dict[str, Any]) -> None:
    stage = zero.get("stage", 0)
    if stage == 3:
        raise ValueError(
            f"{path}: ZeRO stage 3 cannot be used, because the gradient penalty differentiates twice through weights "
            "that it takes away after the first time; take stage 0, 1 or 2"
        )
    if isinstance(stage, bool) or stage not in STAGES:
        raise ValueError(f"{path}: zero_optimization.stage is {stage!r}; take 0, 1 or 2")
    for key in ("offload_optimizer", "cpu_offload", "zenflow"):
        if zero.get(key):
            raise ValueError(f"{path}: remove zero_optimization.{key}; checkpoints cannot be put together from it")
