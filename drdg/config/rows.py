"""Station 0, configuration: knobs of what rows are made of: networks, losses and the compared methods.

"paper" and "released code" are those of ``schema.py``, but for a section that names another.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drdg.config.archives import Section

Upsampling = Literal["transposed", "smooth"]

# ------------------------------------------------------------------------------------------------------------ networks


class GeneratorConfig(Section):
    """The U-shaped generator (paper, section II-C)."""

    width: int = Field(default=64, ge=1)
    """Channels of the first level; the levels have 1, 2, 4, 8, 8, 8, 8 times it. Paper: 64."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate on encoder levels 4-7 and decoder levels 1-3 (released code: 0.5)."""
    depth_decoder: Literal["own", "shared"] = "own"
    """``own``: a decoder D^dep beside the image decoder (paper, section II-B1). ``shared``: the image decoder runs a
    second time and only the last layer differs (what the released code does)."""
    upsampling: Upsampling = "transposed"
    """``transposed``: the decoders' convolutions of 4 x 4 (released code), which leave a grid until they have learned
    not to. ``smooth``: only such as double the side and then convolve by 3 x 3, which leave none."""
    residual: float = 1.0
    """Factor k of the skip from input to output; equation 1 has k = 1."""
    learn_residual: bool = False
    """Whether k is learned."""


class CriticConfig(Section):
    """The patch critic of each domain (paper, section II-C)."""

    width: int = Field(default=64, ge=1)
    """Channels of the first convolution; the others have 2, 4, 8, 8 times it and 1. Paper: 64."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of the critic's instance norm. The released code has 0.8, an argument slip it was tuned with."""


class BerhuConfig(Section):
    """The reversed Huber loss (paper, equation 5)."""

    fraction: float = Field(default=0.2, gt=0)
    """Threshold as a share of the largest residual: L = 0.2 max|residual| (paper, under equation 5)."""
    scope: Literal["image", "batch"] = "image"
    """Where the largest residual is sought. ``batch`` (released code) depends on the rank and its
    ``gan.micro_batch``."""
    live_threshold: bool = False
    """Let gradients flow through the threshold (released code). It reverses the sign at the worst pixel."""
    additive_eps: float = Field(default=0.0, ge=0)
    """Added to 2L in the quadratic branch (released code: 1e-4). 0: the denominator is only kept from being zero."""


class LossConfig(Section):
    """Weights of equation 7 and the critic's penalty."""

    adversarial: float = Field(default=5.0, ge=0)
    """lambda_adv (paper, section II-C: 5)."""
    cycle: float = Field(default=10.0, ge=0)
    """lambda_cyc (paper: 10)."""
    depth_supervised: float = Field(default=2.0, ge=0)
    """lambda_DSL (paper: 2)."""
    depth_cycle_consistency: float = Field(default=1.0, ge=0)
    """lambda_DCCL (paper: 1)."""
    gradient_penalty: float = Field(default=1.0, ge=0)
    """Weight of the critic's gradient penalty (not in the paper; released code: 1)."""
    berhu: BerhuConfig = BerhuConfig()
    depth_resize: Literal["bilinear", "area", "legacy_nearest"] = "bilinear"
    """How a DSM is brought to the translated image's size for DCCL. ``area``: torch's, the mean of every pixel that is
    touched, exact areas only at whole ratios. ``legacy_nearest`` (released code) picks the upper
    left pixel and shifts heights by up to a pixel against the image."""

    @property
    def uses_depth(self) -> bool:
        """Whether any term reads a predicted depth, so whether a depth decoder is built at all."""
        return self.depth_supervised > 0 or self.depth_cycle_consistency > 0


# --------------------------------------------------------------------------------------------------- compared methods


class CycleGanConfig(Section):
    """CycleGAN (Zhu et al. 2017), by the released code of junyanz/pytorch-CycleGAN-and-pix2pix."""

    width: int = Field(default=64, ge=1)
    """Channels of the generator's first convolution (released code: 64)."""
    blocks: int = Field(default=9, ge=1)
    """Residual blocks of the generator (released code: 9 from 256 px on)."""
    critic_width: int = Field(default=64, ge=1)
    """Channels of the first convolution of the 70 by 70 patch critic (released code: 64)."""
    cycle: float = Field(default=10.0, ge=0)
    """Weight of the cycle consistency (released code: 10, both directions)."""
    identity: float = Field(default=0.5, ge=0)
    """Weight of the identity loss as a share of ``cycle`` (released code: 0.5)."""
    pool: int = Field(default=50, ge=0)
    """Translated images of earlier iterations that the critics see besides (released code: 50); 0 for none."""


class BenjdiraConfig(Section):
    """Benjdira et al. 2019 (Remote Sensing 11, 1369), by the released code of bilel-bj."""

    width: int = Field(default=32, ge=1)
    """Channels of the generator's first level; the four have 1, 2, 4, 8 times it (released code: 32)."""
    critic_width: int = Field(default=64, ge=1)
    """Channels of the critic's first convolution (released code: 64)."""
    cycle: float = Field(default=10.0, ge=0)
    """Weight of the cycle consistency (released code: 10)."""
    identity: float = Field(default=0.1, ge=0)
    """Weight of the identity loss as a share of ``cycle`` (released code: 0.1)."""


class DualGanConfig(Section):
    """DualGAN (Yi et al. 2017), by the released code of duxingren14/DualGAN."""

    width: int = Field(default=64, ge=1)
    """Channels of the generator's first level (released code: 64)."""
    critic_width: int = Field(default=64, ge=1)
    """Channels of the critic's first convolution (released code: 64)."""
    cycle: float = Field(default=500.0, ge=0)
    """Weight of the reconstruction (released code: 500; its scripts 1000; the adversarial term has 1)."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """Weight of the critics' gradient penalty (released code: 10)."""


class OutputSpaceConfig(Section):
    """Output-space adaptation, single level (AdaptSegNet, Tsai et al. 2018), as in the authors' own segmentor."""

    weight: float = Field(default=0.02, ge=0)
    """Weight of the adversarial term on target predictions (released code: 0.02)."""
    width: int = Field(default=64, ge=1)
    """Channels of the discriminator's first convolution; then 2, 4, 8 times it and 1 (released code: 64)."""
    lr: float = Field(default=2e-4, gt=0)
    """Adam's learning rate for the discriminator, which does not fall (released code: 2e-4)."""


class MucssConfig(Section):
    """The constraints of MUCSS (Li et al. 2021, ISPRS 175, 20-33), whose numbers were not published: ours."""

    confidence: float = Field(default=0.9, ge=0, lt=1)
    """Probability above which a prediction on the target becomes a pseudo-label."""
    pseudo: float = Field(default=1.0, ge=0)
    """Weight of the pseudo-labels (weakly supervised pseudo-label constraint)."""
    rotation: float = Field(default=1.0, ge=0)
    """Weight of the difference between a turned image's prediction and the turned prediction (rotation consistency)."""
    original: float = Field(default=1.0, ge=0)
    """Weight of the source tiles before translation (transfer invariance)."""


class OracleConfig(Section):
    """The ceiling: a segmentor that learns from target labels."""

    split: str = "val"
    """Target split it learns from; it must share no TOP with ``evaluation.split``. With ``validation_split``
    the same and ``segmentation.checkpoint=best``, its best epoch is picked by what it has learned."""
