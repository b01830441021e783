"""The data of the paper's experiments: two polynomials, MNIST and CIFAR-10.

The images come from the folder named by the environment variable REBASIN_DATA (``mnist.npz``, ``cifar10_jpeg.npz``),
or, where it is unset, from torchvision, which downloads them.
"""

import io
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["Task", "cifar10", "mnist", "polynomial"]

# The polynomials of the paper's reference [27]: where x lives, and what is learned there.
POLYNOMIALS = {
    "first": ((-4.0, -2.0), lambda x: x + 3.0),
    "third": ((2.0, 4.0), lambda x: (x - 3.0) ** 3),
}


@dataclass(frozen=True)
class Task:
    """Inputs and targets to train on and to measure with, the loss, and what training does to the data."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    loss: torch.nn.Module
    augmentation: str = "none"


def polynomial(degree: str, points: int = 100) -> Task:
    """Regression on a hundred points of a polynomial; training adds noise to them."""
    (low, high), function = POLYNOMIALS[degree]
    x = torch.linspace(low, high, points).unsqueeze(1)
    return Task(f"{degree} degree", (x, function(x)), (x, function(x)), torch.nn.MSELoss(), augmentation="noise")


def mnist() -> Task:
    """Handwritten digits as rows of 784 pixels from 0 to 1."""
    if folder := os.environ.get("REBASIN_DATA"):
        with np.load(Path(folder) / "mnist.npz") as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        arrays = _torchvision("MNIST")
    x_train, y_train, x_test, y_test = (torch.tensor(array) for array in arrays)
    train, test = ((x.flatten(1).float() / 255, y.to(torch.int64)) for x, y in ((x_train, y_train), (x_test, y_test)))
    return Task("MNIST", train, test, torch.nn.CrossEntropyLoss())


def cifar10(flat: bool = False, training_images: int = 50_000) -> Task:
    """Photographs of ten kinds of things, every channel normalized, as (3, 32, 32) or flattened rows of 3072."""
    if folder := os.environ.get("REBASIN_DATA"):
        with np.load(Path(folder) / "cifar10_jpeg.npz") as file:
            arrays = [
                array
                for part in ("train", "test")
                for array in (_decode(file[f"jpeg_{part}"], file[f"offset_{part}"]), file[f"y_{part}"])
            ]
    else:
        arrays = _torchvision("CIFAR10")
    arrays[0], arrays[1] = arrays[0][:training_images], arrays[1][:training_images]
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    parts = []
    for x, y in (arrays[:2], arrays[2:]):
        images = ((torch.tensor(x).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        parts.append((images.flatten(1) if flat else images, torch.tensor(y).to(torch.int64)))
    return Task("CIFAR-10", parts[0], parts[1], torch.nn.CrossEntropyLoss(), "none" if flat else "shift and flip")


def _decode(jpeg: np.ndarray, offset: np.ndarray) -> np.ndarray:
    from PIL import Image

    files = (jpeg[start:end].tobytes() for start, end in itertools.pairwise(offset))
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def _torchvision(name: str) -> list[np.ndarray]:
    try:
        from torchvision import datasets
    except ImportError:
        raise SystemExit(
            f"{name} was not found. Set REBASIN_DATA to a folder that holds mnist.npz and cifar10_jpeg.npz, or install "
            f"torchvision, which downloads it"
        ) from None
    arrays = []
    for part in (True, False):
        data = getattr(datasets, name)("data", train=part, download=True)
        arrays += [np.asarray(data.data), np.asarray(data.targets)]
    return arrays
