"""The networks of the benchmark, with random weights and plain modules, so that every peer reads the same code."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network", "pair"]


class Block(nn.Module):
    """Two convolutions and a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = y + shortcut
        return self.relu(y)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Three convolutions, the middle one narrow, and a shortcut (ResNet-50 and ResNet-152)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = y + shortcut
        return self.relu(y)  # type: ignore[no-any-return]


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Residual network of torchvision's layout."""

    def __init__(self, block: type[Block] | type[Bottleneck], depths: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        stages = []
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            blocks = []
            for index in range(depth):
                blocks.append(block(inputs, width, 2 if stage and index == 0 else 1))
                inputs = block.expansion * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        y = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        return self.fc(self.flatten(self.avgpool(y)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention and a multi-layer perceptron, normalized before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        batch, tokens, width = x.shape
        y = self.norm1(x)

        def split(z: Tensor) -> Tensor:
            return z.reshape(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            split(self.query(y)), split(self.key(y)), split(self.value(y))
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(self.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """ViT-B/16 for images of 224 pixels."""

    def __init__(self, width: int = 768, heads: int = 12, depth: int = 12, patch: int = 16, pixels: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (pixels // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat((self.token.expand(y.shape[0], -1, -1), y), 1) + self.position
        return self.head(self.norm(self.layers(y))[:, 0])  # type: ignore[no-any-return]


def mlp(*widths: int) -> nn.Sequential:
    """Fully connected layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vgg11() -> nn.Sequential:
    """VGG-11 with batch normalization, for images of 32 pixels."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Network:
    """An architecture, and the shape of one image or vector."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    """Of a training step."""

    def example(self, batch: int = 1) -> Tensor:
        """Random inputs."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(0))


NETWORKS = {
    "MLP-tiny": Network(lambda: mlp(8, 16, 16, 4), (8,), 16),
    "MLP": Network(lambda: mlp(784, 512, 512, 10), (784,), 1000),
    "MLP-4096": Network(lambda: mlp(784, 4096, 4096, 10), (784,), 1000),
    "VGG-11": Network(vgg11, (3, 32, 32), 32),
    "ResNet-18": Network(lambda: ResNet(Block, (2, 2, 2, 2)), (3, 32, 32), 32),
    "ResNet-50": Network(lambda: ResNet(Bottleneck, (3, 4, 6, 3)), (3, 32, 32), 32),
    "ResNet-152": Network(lambda: ResNet(Bottleneck, (3, 8, 36, 3)), (3, 32, 32), 32),
    "ViT-B/16": Network(VisionTransformer, (3, 224, 224), 8),
    **{
        f"MLP-{depth}x{width}": Network(partial(mlp, 784, *[width] * depth, 10), (784,), 1000)
        for depth, width in ((2, 256), (2, 512), (2, 1024), (2, 2048), (4, 512), (8, 512), (16, 512))
    },
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Two networks of one architecture, of different seeds; the global random state is kept."""
    networks = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks.append(NETWORKS[name].build())
    return networks[0], networks[1]
