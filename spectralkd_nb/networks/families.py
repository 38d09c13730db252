"""The families of small networks that the distillation literature teaches with, for pictures of 32 x 32 pixels.

Every network has the same outline: a stem convolution, stages of blocks that halve the map and widen it, an average
over the map, and one linear layer. Module names are those of the field (`conv1`, `layer2.0.bn1`, `fc`), so that a
dotted path means the same here and in a network that others trained. No module is called twice in a forward pass, so
that each activation has a name of its own, and ReLUs work out of place, so that a hook keeps what it has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The sizes that the field uses; family_of takes others of the same form too.
NAMES = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4"),
    *("plain8", "plain14", "plain20", "plain32", "plain44", "plain56"),
    *("wrn-10-1", "wrn-10-2", "wrn-16-1", "wrn-16-2", "wrn-28-2", "wrn-28-4", "wrn-40-1", "wrn-40-2", "wrn-28-10"),
    *("vgg8x0.0625", "vgg8x0.125", "vgg8x0.25", "vgg8x0.5", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
)
SHORTCUTS = ("projection", "padding")


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class PaddingShortcut(nn.Module):
    """Option A of He et al. 2016: every second pixel, and zeros for the channels that the input does not have."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """conv - BN - ReLU - conv - BN, the input added, ReLU (He et al. 2016, arXiv 1512.03385, figure 2).

    With skip=False the input is not added: the block of a plain network, same parameters but for the shortcut's.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, skip: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.skip = skip
        if skip and (stride != 1 or inputs != outputs):
            self.downsample = (
                PaddingShortcut(inputs, outputs, stride)
                if shortcut == "padding"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.skip:
            y = y + (self.downsample(x) if hasattr(self, "downsample") else x)
        return self.relu2(y)


class CifarResNet(nn.Module):
    """ResNet for 32 x 32 pixels, of 6 n + 2 layers (He et al. 2016, arXiv 1512.03385, section 4.2), or its plain twin.

    Args:
        depth: layers with weights, 6 n + 2.
        classes: outputs.
        widths: channels of the stem and of the three stages.
        shortcut: where a block changes the shape: "projection" (1 x 1 convolution and BN, option B) or "padding"
            (zeros, option A, no parameters).
        skip: False for the plain network, which adds no input to any block's output.
    """

    def __init__(
        self,
        depth: int,
        classes: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        shortcut: str = "projection",
        skip: bool = True,
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut={shortcut!r} is not known; choose one of {', '.join(map(repr, SHORTCUTS))}")
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"a ResNet for CIFAR has 6 n + 2 layers (8, 14, 20, 32, 44, 56, 110), not {depth}")
        blocks = (depth - 2) // 6
        stem, *stages = widths
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            first = BasicBlock(inputs, outputs, stride, shortcut, skip)
            return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut, skip) for _ in range(blocks - 1)))

        self.layer1 = stage(stem, stages[0], 1)
        self.layer2 = stage(stages[0], stages[1], 2)
        self.layer3 = stage(stages[1], stages[2], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stages[2], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreactivationBlock(nn.Module):
    """BN - ReLU - conv - BN - ReLU - conv, the input added (He et al. 2016, arXiv 1603.05027).

    Where the shape changes, the 1 x 1 convolution of the shortcut reads the activated input, as in Zagoruyko &
    Komodakis' code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = conv3x3(outputs, outputs)
        if inputs != outputs:
            self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        y = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return y + (self.downsample(activated) if hasattr(self, "downsample") else x)


class WideResNet(nn.Module):
    """Wide ResNet WRN-depth-k (Zagoruyko & Komodakis 2016, arXiv 1605.07146), without dropout.

    Args:
        depth: 6 n + 4 layers.
        factor: k, how many times wider than 16, 32, 64 the stages are.
        classes: outputs.
    """

    def __init__(self, depth: int, factor: int, classes: int) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"a Wide ResNet has 6 n + 4 layers (10, 16, 22, 28, 40), not {depth}")
        blocks = (depth - 4) // 6
        widths = [16 * factor, 32 * factor, 64 * factor]

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            first = PreactivationBlock(inputs, outputs, stride)
            return nn.Sequential(first, *(PreactivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

        self.conv1 = conv3x3(3, 16)
        self.layer1 = stage(16, widths[0], 1)
        self.layer2 = stage(widths[0], widths[1], 2)
        self.layer3 = stage(widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.relu(self.bn1(x))), 1))


VGG_STAGES = {
    8: ((64,), (128,), (256,), (512,), (512,)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


class Vgg(nn.Module):
    """VGG with batch norm for 32 x 32 pixels and one linear layer (Simonyan & Zisserman 2015, arXiv 1409.1556).

    As the distillation literature uses it: five stages with pooling after the first three, so that the last two both
    see maps of 4 x 4 pixels (Tian et al. 2020, arXiv 1910.10699).

    Args:
        depth: 8, 11, 13, 16 or 19; nominal, with VGG's own three linear layers counted for the larger ones.
        classes: outputs.
        factor: of every width; 1/16 makes a student that learns in seconds on a CPU.
    """

    def __init__(self, depth: int, classes: int, factor: float = 1.0) -> None:
        super().__init__()
        if depth not in VGG_STAGES:
            raise ValueError(f"a VGG has {', '.join(map(str, VGG_STAGES))} layers, not {depth}")
        inputs = 3
        for number, widths in enumerate(VGG_STAGES[depth], 1):
            layers: list[nn.Module] = []
            for width in (max(1, round(factor * width)) for width in widths):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            if number <= 3:
                # The pooling opens the next stage, so that a stage ends with its last activation.
                setattr(self, f"pool{number}", nn.MaxPool2d(2))
            setattr(self, f"layer{number}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.layer1(x))
        x = self.pool2(self.layer2(x))
        x = self.pool3(self.layer3(x))
        x = self.layer5(self.layer4(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def initialise(network: nn.Module) -> None:
    """He's normal initialisation for convolutions (He et al. 2015, arXiv 1502.01852); the rest as torch has it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


WIDER_BY_4 = (32, 64, 128, 256)  # stem and stages of the "x4" networks of Tian et al. 2020


def family_of(name: str, shortcut: str = "projection") -> Callable[[int], nn.Module] | None:
    """What makes the network of a name, given the number of classes; None if the name is none of these families'.

    Args:
        name: resnetD, resnetDx4, plainD, plainDx4 (D = 6 n + 2), wrn-D-K (D = 6 n + 4), vggD, and vggDxF for F times
            its widths.
        shortcut: of the ResNets, see `CifarResNet`.
    """
    if match := re.fullmatch(r"(resnet|plain)(\d+)(x4)?", name):
        widths = WIDER_BY_4 if match[3] else (16, 16, 32, 64)
        return lambda classes: CifarResNet(int(match[2]), classes, widths, shortcut, skip=match[1] == "resnet")
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return lambda classes: WideResNet(int(match[1]), int(match[2]), classes)
    if match := re.fullmatch(r"vgg(\d+)(?:x(\d+(?:\.\d+)?))?", name):
        return lambda classes: Vgg(int(match[1]), classes, float(match[2] or 1))
    return None
