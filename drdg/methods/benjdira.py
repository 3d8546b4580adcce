"""Station 3, methods: Benjdira's (Benjdira et al. 2019, Remote Sensing 11, 1369, doi 10.3390/rs11111369), "-style".

CycleGAN with a small U-Net, trained between aerial images; the segmentor then learns from translated source images.
Equations, losses and the order of learning are in ``least_squares.py``. The numbers, of the released code,
bilel-bj/unsupervised-domain-adaptation-gan: cycle 10, identity a tenth of it, generator 32-64-128-256, critic
64-128-256-512, all norms after the activations, no pool, Adam with 2e-4 and beta1 0.5, which the row's settings give to
``gan``.

Deviations, for which it is called "-style"
    Images are not shrunk to 256 px, and not mirrored at random; source tiles at the target's side: see ``two_way.py``.
    Generators learn first, and a critic has one update for real and translated images together; the released code has
    the critics first, and one update for each.
    Instance norms, as their paper says, each channel for itself and with epsilon 1e-5. The released code's Keras layer,
    as it calls it, takes mean and variance over all channels together, with epsilon 1e-3.
    Weights begin as N(0, 0.02), as in all methods here, not as Keras draws them.
    The segmentor is the table's common one, not their BiSeNet.
"""

from __future__ import annotations

from drdg.config import Config
from drdg.methods.least_squares import LeastSquares
from drdg.methods.translator import Phase
from drdg.models.patch_critic import PatchCritic, PatchLayout
from drdg.models.small_unet import SAME, SmallUNet

# Images (N, 3, H, W) give scores (N, 1, H/16, W/16).
CRITIC = PatchLayout(
    multiples=(1, 2, 4, 8), strides=(2, 2, 2, 2), head_padding=SAME, affine=True, norm_after_activation=True
)


class Benjdira(LeastSquares):
    """Benjdira's at the target's tile side."""

    def __init__(self, config: Config):
        knobs = config.benjdira
        super().__init__(
            config,
            generator=lambda: SmallUNet(knobs.width),
            critic=lambda: PatchCritic(CRITIC, knobs.critic_width),
        )

    def phases(self) -> list[Phase]:
        """The generators at every ``n_critic``-th iteration, the critics at every one."""
        return self._phases(self.config.benjdira.cycle, self.config.benjdira.identity, pools=None)
