"""Three convolutional networks become one: VGG-11 or ResNet-20 on CIFAR-10, trained from three seeds.

Trains the networks by the recipe of ``examples/paper/convolutions.py`` and keeps them as checkpoints, or reads them
from there; prints the test accuracy of each, of their mean as they are, and of the merged networks: with the statistics
of batch normalization averaged like the weights, with re-estimated statistics, and with REPAIR instead. Then it writes
the images that the program on the command line needs, and prints the one command that does all of it.

    python three_networks.py                         # VGG-11 with a quarter of the usual channels: minutes a network
    python three_networks.py --network resnet20
    python three_networks.py --quick

CIFAR-10 comes from the folder in the environment variable REBASIN_DATA.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

PAPER = Path(__file__).parents[1] / "paper"
sys.path.insert(0, str(PAPER))

from convolutions import Job, cache_file, trained  # noqa: E402
from running import save_table, table  # noqa: E402
from tasks import Task, cifar10  # noqa: E402
from training import accuracy  # noqa: E402

import rebasin_core as rb  # noqa: E402

METHODS = ("star", "iterative", "cycle")
FACTORIES = {"vgg11": "vgg11", "resnet20": "ResNet20"}
WIDTHS = {"vgg11": 0.25, "resnet20": 1}
FRESH, BATCH = 2000, 256  # training images that statistics are measured on


def main() -> None:
    """Train or read three networks, merge them, print the table and the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=("vgg11", "resnet20"), default="vgg11")
    parser.add_argument("--width", type=float, help="channels, as a multiple of the usual (VGG-11: 0.25, ResNet-20: 1)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path("networks"), help="folder of the checkpoints")
    parser.add_argument("--quick", action="store_true", help="one epoch on 2,000 images: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the table")
    chosen = parser.parse_args()
    width = WIDTHS[chosen.network] if chosen.width is None else chosen.width
    job = Job(chosen.network, width, 0, 1 if chosen.quick else chosen.epochs, chosen.quick, chosen.cache)
    task = cifar10(training_images=2000 if chosen.quick else 50_000)
    if chosen.quick:
        task = replace(task, test=tuple(part[:500] for part in task.test))
    models = [trained(job, task, index) for index in range(3)]
    text = table(["network", "test accuracy", "re-estimated statistics", "REPAIR", "seconds"], rows(models, task))
    save_table(text, chosen.out / f"three-{chosen.network}-{width:g}.md")
    images = chosen.cache / "cifar10.npz"
    save_images(task, images)
    files = " ".join(str(cache_file(job, index)) for index in range(3))
    factory = f"{os.path.relpath(PAPER / 'networks.py')}:{FACTORIES[chosen.network]}"
    print(
        f"\nThe same on the command line:\n\nrebasin merge {files} --out {chosen.cache / 'merged.pt'} --reestimate "
        f"--model {factory} --kwargs '{{\"width\": {width:g}}}' --data {images} "
        f"--batch-size {BATCH}"
    )


def rows(models: list[nn.Module], task: Task) -> list[list[str]]:
    """Name, accuracy as it is, with re-estimated statistics and with REPAIR, and the seconds it took to align."""
    fresh = tuple(part[-FRESH:] for part in task.train)

    def right(model: nn.Module) -> str:
        return f"{accuracy(model, task.test):.3f}"

    def row(name: str, model: nn.Module) -> list[str]:
        return [name, right(model), right(rb.reestimate(model, fresh, batch_size=BATCH))]

    example = task.train[0][:2]
    graph = rb.permutation_graph(models[0], example)
    found = [[*row(f"network {index + 1}", model), "–", "–"] for index, model in enumerate(models)]
    naive = rb.interpolate(rb.interpolate(models[0], models[1]), models[2], 1 / 3)
    repaired = rb.repair(naive, models, fresh, graph=graph, batch_size=BATCH)
    found.append([*row("mean, as they are", naive), right(repaired), "–"])
    for method in METHODS:
        started = time.perf_counter()
        result = rb.align_many(models, example, graph=graph, method=method)
        seconds = f"{time.perf_counter() - started:.1f}"
        print(result, flush=True)
        repaired = result.merge(repair=fresh, batch_size=BATCH)
        found.append([*row(f"merged, {method}", result.merge()), right(repaired), seconds])
    return found


def save_images(task: Task, file: Path) -> None:
    """Write the images the statistics are measured on, and those the accuracy is, for the command line."""
    arrays = {}
    for part, (x, y) in (("train", [values[-FRESH:] for values in task.train]), ("test", task.test)):
        arrays |= {f"x_{part}": x.numpy(), f"y_{part}": y.numpy()}
    np.savez(file, **arrays)


if __name__ == "__main__":
    main()
