"""Station 3, methods: CycleGAN (Zhu et al. 2017, arXiv 1703.10593), by the released code of junyanz.

Equations, losses and the order of learning are in ``least_squares.py``, since Benjdira's are the same. The numbers, of
junyanz/pytorch-CycleGAN-and-pix2pix where no section is named: cycle 10, identity half of it; the critics see a pool of
50 earlier translations (section 4); a generator of nine residual blocks from 256 px on (appendix 7.2); Adam with 2e-4
and beta1 0.5, batch size 1, and a rate that falls to 0 over the second half, which the row's settings give to ``gan``.

Deviations
    No crops to 256 px and no mirrored tiles, and source tiles at the target's side: see ``two_way.py``.
    No biases before norms, which take them away again; other biases begin as torch's, not as zeros.
    The pool is shared out among the pairs of ``gan.batch_size``, see :mod:`drdg.models.pool`; at 1 it is the original.
"""

from __future__ import annotations

from drdg.config import Config
from drdg.methods.least_squares import LeastSquares
from drdg.methods.translator import Phase
from drdg.methods.uses import SOURCE_POOL, TARGET_POOL
from drdg.models.patch_critic import PatchCritic, PatchLayout
from drdg.models.pool import ImagePool
from drdg.models.resnet_generator import ResnetGenerator

# The 70 by 70 patch critic (appendix 7.2: C64-C128-C256-C512); the released code's last two convolutions have stride 1.
# Images (N, 3, H, W) give scores (N, 1, H/8 - 2, W/8 - 2).
CRITIC = PatchLayout(multiples=(1, 2, 4, 8), strides=(2, 2, 2, 1), head_padding=(1, 1, 1, 1), affine=False)


class CycleGan(LeastSquares):
    """CycleGAN at the target's tile side. Raises ``ValueError`` for a pool with ``gan.micro_batch``."""

    def __init__(self, config: Config):
        knobs, gan = config.cyclegan, config.gan
        if knobs.pool > 0 and gan.micro_batch is not None:
            raise ValueError(
                f"gan.micro_batch={gan.micro_batch} would take apart the batch that the image pool is kept by; "
                "set cyclegan.pool=0, or gan.micro_batch=null"
            )
        super().__init__(
            config,
            generator=lambda: ResnetGenerator(knobs.width, knobs.blocks),
            critic=lambda: PatchCritic(CRITIC, knobs.critic_width),
        )

    def phases(self) -> list[Phase]:
        """The generators at every ``n_critic``-th iteration, the critics at every one."""
        knobs = self.config.cyclegan
        pools = (self._pool("source", SOURCE_POOL), self._pool("target", TARGET_POOL)) if knobs.pool > 0 else None
        return self._phases(knobs.cycle, knobs.identity, pools)

    def _pool(self, domain: str, tag: int) -> ImagePool:
        share = max(1, self.config.cyclegan.pool // self.config.gan.batch_size)
        return ImagePool(self.lanes, domain, share, self.config.run.seed, tag)
