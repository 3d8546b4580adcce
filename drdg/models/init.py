"""Station 3, networks: the initial weights of the field's image translation networks."""

from __future__ import annotations

from torch import nn

STANDARD_DEVIATION = 0.02  # released code, as in DCGAN (Radford et al. 2016) and CycleGAN


def init_normal(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 0.02); biases and norms keep torch's defaults (released code)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, STANDARD_DEVIATION)
