"""The tasks of the paper's continual experiments: Rotated MNIST, Split CIFAR-10 and Split CIFAR-100.

Pictures come normalized, in bfloat16, in which the networks of this folder compute; they are turned and scaled once.
MNIST and CIFAR-10 are read as in ``examples/paper``: from the folder in the environment variable REBASIN_DATA
(``mnist.npz``, ``cifar10_jpeg.npz``), or from torchvision. CIFAR-100 is read from the same folder, where it must be put
as ``cifar100.npz``.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from paper import images
from torch import Tensor

__all__ = ["Task", "rotated", "rotated_mnist", "rotation", "split", "split_cifar10", "split_cifar100"]

# Mean and deviation of the pixels of MNIST, and of the channels of CIFAR-100.
MNIST = (0.1307, 0.3081)
CIFAR100 = ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])


@dataclass(frozen=True)
class Task:
    """Pictures to learn from and to measure with, and the head they belong to; None where there is one output."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    head: int | None = None


def rotation(degrees: float, size: int = 28) -> Tensor:
    """Matrix (pixels, pixels) that turns a flattened picture counterclockwise, by bilinear interpolation.

    A picture x as a row is turned by ``x @ rotation(degrees)``; what comes in from outside is zero.
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    pixels = torch.eye(size * size).reshape(-1, 1, size, size)
    turn = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]]).expand(len(pixels), 2, 3)
    grid = torch.nn.functional.affine_grid(turn, list(pixels.shape), align_corners=False)
    return torch.nn.functional.grid_sample(pixels, grid, align_corners=False).flatten(1)


def rotated(pixels: Tensor, degrees: float) -> Tensor:
    """Turn pictures, rows of pixels from 0 to 1, then normalize."""
    turned = pixels @ rotation(degrees, math.isqrt(pixels.shape[1])) if degrees else pixels
    return ((turned - MNIST[0]) / MNIST[1]).to(torch.bfloat16)


def rotated_mnist(count: int = 20, training_images: int | None = None) -> list[Task]:
    """Domains with the same ten classes: MNIST turned by 0 to 180 degrees in equal steps.

    Parameters
    ----------
    count : int, default 20
        The first so many of the twenty tasks.
    training_images : int, optional
        Of every task, the first so many; default: all 60,000. As many of the 10,000 test images are taken then.
    """
    data = images.mnist()
    train, test = (tuple(x[:training_images] for x in part) for part in (data.train, data.test))
    tasks = []
    for i in range(count):
        degrees = 180.0 * i / 19
        pictures = (rotated(part[0], degrees) for part in (train, test))
        tasks.append(Task(f"{degrees:.0f} degrees", (next(pictures), train[1]), (next(pictures), test[1])))
    return tasks


def split(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, count: int, training_images: int | None
) -> list[Task]:
    """Cut a data set into tasks of so many classes each, numbered from 0, with a head of their own."""
    tasks = []
    for head in range(count):
        first = classes * head
        parts = []
        for (x, y), most in ((train, training_images), (test, None)):
            mine = torch.nonzero((y >= first) & (y < first + classes))[:most, 0]
            parts.append((x[mine].to(torch.bfloat16), y[mine] - first))
        tasks.append(Task(f"classes {first} to {first + classes - 1}", parts[0], parts[1], head))
    return tasks


def split_cifar10(count: int = 5, training_images: int | None = None) -> list[Task]:
    """Five tasks of two classes; `training_images` of every task, by default all 10,000."""
    data = images.cifar10()
    return split(data.train, data.test, 2, count, training_images)


def split_cifar100(count: int = 20, training_images: int | None = None) -> list[Task]:
    """Twenty tasks of five classes; `training_images` of every task, by default all 2,500."""
    file = Path(os.environ.get("REBASIN_DATA", ".")) / "cifar100.npz"
    if not file.exists():
        raise SystemExit(
            f"Split CIFAR-100 needs {file}, which is not there: an npz file with x_train and x_test, (n, 32, 32, 3) of "
            f"uint8, and y_train and y_test, the classes from 0 to 99. Write it from keras.datasets.cifar100.load_data "
            f"or torchvision.datasets.CIFAR100, and name its folder in REBASIN_DATA"
        )
    with np.load(file) as found:
        train, test = (_pictures(found[f"x_{part}"], found[f"y_{part}"]) for part in ("train", "test"))
    return split(train, test, 5, count, training_images)


def _pictures(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    mean, deviation = (torch.tensor(values) for values in CIFAR100)
    pictures = ((torch.tensor(x).float() / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()
    return pictures, torch.tensor(y.reshape(-1)).to(torch.int64)
