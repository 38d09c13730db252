"""Random networks with one property at a time, for experiments on what depth does to a spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectralkd_nb.networks.weights import randomness_kept

SIDE = 3  # taps a side of every kernel


def draw_kernels(outputs: int, inputs: int, correlation: float = 0.0, shared: float = 0.0) -> Tensor:
    """Gaussian kernels whose taps are alike to a chosen degree, scaled as He et al. 2015 (arXiv 1502.01852) scale them.

    Tap (y, x) and tap (y', x') have correlation ``c^(|y - y'| + |x - x'|)``, c = `correlation`; and to all 9 taps of a
    kernel one Gaussian number of deviation `shared` is added. Either makes the kernel a low pass. Our own construction.

    Args:
        outputs, inputs: channels.
        correlation: -1 < c < 1.
        shared: 0 or more, relative to the deviation of a tap.

    Returns:
        (outputs, inputs, 3, 3), each tap of variance 2 / (9 inputs); drawn from torch's generator.

    Raises:
        ValueError: a correlation or a deviation out of range.
    """
    if not shared >= 0:
        raise ValueError(f"shared={shared:g} is a deviation; give 0 or more")
    root = torch.linalg.cholesky(tap_covariance(correlation))
    taps = root.float() @ torch.randn(outputs, inputs, SIDE, SIDE) @ root.float().T
    taps = taps + shared * torch.randn(outputs, inputs, 1, 1)
    return taps * (2 / (SIDE**2 * inputs * (1 + shared**2))) ** 0.5


def tap_covariance(correlation: float) -> Tensor:
    """(3, 3) float64, c^|i - j|: the covariance of the taps along one side of a kernel."""
    if not -1 < correlation < 1:
        raise ValueError(f"correlation={correlation:g} is none that taps can have; give more than -1 and less than 1")
    place = torch.arange(SIDE, dtype=torch.float64)
    return correlation ** (place[:, None] - place).abs()


class RandomLayer(nn.Module):
    """Convolution, batch norm and ReLU in this order; with a skip x + convolution(ReLU(batch norm(x))).

    The latter is the block of pre-activation networks (He et al. 2016, arXiv 1603.05027), which adds before any ReLU.
    With post_activation the sum comes first: ReLU(batch norm(x + convolution(x))).
    """

    def __init__(
        self, kernels: Tensor, *, batch_norm: bool, relu: bool, skip: bool = False, post_activation: bool = False
    ) -> None:
        super().__init__()
        outputs, inputs = kernels.shape[:2]
        self.skip, self.post_activation = skip, post_activation
        self.conv = nn.Conv2d(inputs, outputs, SIDE, padding=SIDE // 2, padding_mode="circular", bias=False)
        self.conv.weight.data = kernels
        normalised = inputs if skip and not post_activation else outputs
        self.bn = nn.BatchNorm2d(normalised) if batch_norm else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if not self.skip:
            return self.relu(self.bn(self.conv(x)))
        if self.post_activation:
            return self.relu(self.bn(x + self.conv(x)))
        return x + self.conv(self.relu(self.bn(x)))


class RandomNetwork(nn.Sequential):
    """Layers of one width and one resolution, never trained, with circular padding: the network of lesson 3's theory.

    Its batch norms know no statistics yet; `reestimate_batch_norm` gives them those of the images.

    Args:
        inputs: channels of an image.
        width: channels of every layer.
        depth: layers.
        correlation, shared: of the kernels, see `draw_kernels`.
        batch_norm, relu: whether the layers have them.
        skip: every layer but the first, which makes the channels that the others add to, adds to its input.
        post_activation: where the skip ends, see `RandomLayer`; then the first layer adds too, if inputs are as many as
            channels.
        seed: of the kernels.

    Raises:
        ValueError: inputs, width or depth below 1, post_activation without a skip, and what `draw_kernels` refuses.
    """

    def __init__(
        self,
        inputs: int = 64,
        width: int = 64,
        depth: int = 12,
        *,
        correlation: float = 0.0,
        shared: float = 0.0,
        batch_norm: bool = True,
        skip: bool = False,
        post_activation: bool = False,
        relu: bool = True,
        seed: int = 0,
    ) -> None:
        if min(inputs, width, depth) < 1:
            raise ValueError(f"inputs={inputs}, width={width} and depth={depth} must be 1 or more")
        if post_activation and not skip:
            raise ValueError("post_activation says where a skip ends; set skip=True too")
        with randomness_kept():
            torch.manual_seed(seed)
            kernels = [draw_kernels(width, n, correlation, shared) for n in (inputs, *[width] * (depth - 1))]
            kind = {"batch_norm": batch_norm, "relu": relu, "skip": skip, "post_activation": post_activation}
            first = kind
            if skip and not post_activation:  # a convolution alone
                first = {"batch_norm": False, "relu": False}
            elif inputs != width:
                first = {"batch_norm": batch_norm, "relu": relu}
            # Here too, for torch draws weights of its own for every convolution.
            layers = [RandomLayer(kernels[0], **first), *(RandomLayer(k, **kind) for k in kernels[1:])]
        super().__init__(*layers)
        self.eval()

    def __getitem__(self, index):
        """A layer; or several, which are an ordinary nn.Sequential."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)
