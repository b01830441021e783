"""Training the networks that the experiments then re-base."""

from collections.abc import Callable
from pathlib import Path

import torch
from tasks import Task
from torch import Tensor, nn

__all__ = ["accuracy", "cached", "train_images", "train_polynomial"]


def train_polynomial(model: nn.Module, task: Task, seed: int, steps: int = 2000, noise: float = 0.05) -> nn.Module:
    """Full-batch AdamW; the targets get new noise at every step, as in the authors' data set."""
    generator = torch.Generator().manual_seed(seed)
    x, y = task.train
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model(x), y + noise * torch.randn(y.shape, generator=generator)).backward()
        optimizer.step()
    return model


def train_images(
    model: nn.Module,
    task: Task,
    seed: int,
    epochs: int,
    rate: float = 1e-3,
    batch_size: int = 128,
) -> nn.Module:
    """Train a classifier of images under a one-cycle schedule: perceptrons by AdamW, convolutional networks by SGD.

    Convolutional networks compute in bfloat16 and channels last, which on a CPU takes a third of the time; the weights
    stay float32. SGD with strong weight decay leaves two of them much nearer to each other than AdamW does. Images are
    flipped and shifted where the task says so.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = task.train
    convolutional = x.ndim == 4
    steps = epochs * (len(x) // batch_size)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=1e-3)
        if convolutional
        else torch.optim.AdamW(model.parameters(), rate)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    layout = torch.channels_last if convolutional else torch.contiguous_format
    model.train().to(memory_format=layout)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // batch_size * batch_size].split(batch_size):
            images = augment(x[rows], generator) if task.augmentation == "shift and flip" else x[rows]
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=convolutional):
                loss = task.loss(model(images.to(memory_format=layout)), y[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images, and shift each by up to four pixels."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flipped, images.flip(3), images)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    places = torch.randint(0, 9, (2, len(images)), generator=generator)
    rows, columns = (start[:, None] + torch.arange(32) for start in places)
    index = torch.arange(len(images))[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor], batch_size: int = 1000) -> float:
    """Share of images whose largest output is their class."""
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(*(part.split(batch_size) for part in data), strict=True)]
    return float(sum(right)) / len(data[1])


def cached(file: Path | None, model: nn.Module, train: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Read the weights of `file` into the model, or train it and write them there."""
    if file is not None and file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    trained = train(model)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(trained.state_dict(), file)
    return trained
