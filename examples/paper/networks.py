"""The networks of the paper: perceptrons, and for the supplement VGG-11 and ResNet-20."""

import torch
from torch import Tensor, nn

__all__ = ["ResNet20", "perceptron", "vgg11"]


def perceptron(inputs: int, width: int, hidden: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """Fully connected layers: `hidden` of `width` units, and a linear one."""
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(f(x) + x)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32 and 64 channels at width 1."""

    def __init__(self, width: int = 1, classes: int = 10) -> None:
        super().__init__()
        channels = [16 * width, 32 * width, 64 * width]
        self.conv = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels[0])
        blocks, inputs = [], channels[0]
        for stage, outputs in enumerate(channels):
            for index in range(3):
                blocks.append(Block(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images (samples, 3, 32, 32)."""
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        return self.linear(x.mean((2, 3)))


def vgg11(width: float = 1.0, classes: int = 10) -> nn.Sequential:
    """VGG-11 with BatchNorm, as for CIFAR-10: eight convolutions and one linear layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for item in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = round(item * width)
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, classes))
