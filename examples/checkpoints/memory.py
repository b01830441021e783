"""How much memory it takes to align two checkpoint files that are larger than it.

    OMP_NUM_THREADS=1 python examples/checkpoints/memory.py            a pair of safetensors files of 1 GiB each
    python examples/checkpoints/memory.py --quick

Writes a stack of dense layers and a copy of it with permuted units and noise, tensor by tensor, aligns the two files in
a process of its own, and prints by how much its resident memory grew: its peak, less what the interpreter held after it
had aligned a tiny pair, so that imports and the buffers of the linear algebra library do not count. It is compared with
the bytes of the tensors in which the largest group appears, of one of the two files; of bfloat16, as the float32 in
which it is computed. Exit code 1: more than three times as much, another permutation was found, or a framework was
imported.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rebasin_core as rb
from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.bfloat16 import to_bfloat16
from rebasin_core.checkpoints.streaming import match_files, write_permuted

MOST = 3.0
NOISE = 0.3  # of what is added to the permuted weights, next to weights of standard deviation 1
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "safetensors")
MIB = 2**20


def shapes_of(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    weights = {f"layers.{i}.weight": (width, width) for i in range(layers)}
    biases = {f"layers.{i}.bias": (width,) for i in range(layers)}
    return {name: shape for pair in zip(weights.items(), biases.items(), strict=True) for name, shape in pair}


def axes_of(layers: int) -> dict[str, str]:
    """Every hidden layer has an order of its own; inputs and outputs stay."""
    units = [".", *(f"h{i}" for i in range(layers - 1)), "."]
    axes = {f"layers.{i}.weight": f"{units[i + 1]} {units[i]}" for i in range(layers)}
    return axes | {f"layers.{i}.bias": units[i + 1] for i in range(layers)}


def graph_of(width: int, layers: int) -> rb.PermutationGraph:
    infos = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes_of(width, layers).items()}
    axes = axes_of(layers)
    return rb.PermutationGraph.from_axes({name: axes[name] for name in infos}, infos)


def write_pair(folder: Path, width: int, layers: int, dtype: str, seed: int) -> rb.Plan:
    """Write ``a.safetensors`` and ``b.safetensors``; returns the plan that carries B to A."""
    graph, rng = graph_of(width, layers), np.random.default_rng(seed)
    planted = rb.Plan.random(graph, rng)
    size = 2 if dtype == "BF16" else 4
    header, end = {}, 0
    for name, shape in shapes_of(width, layers).items():
        start, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head = len(head).to_bytes(8, "little") + head
    with open(folder / "a.safetensors", "wb") as a, open(folder / "b.safetensors", "wb") as b:
        for file in (a, b):
            file.write(head)
        for name, shape in shapes_of(width, layers).items():
            x = rng.standard_normal(shape, "float32")
            y = x
            for axis, units in enumerate(map(str, graph.axes[name].axes)):
                y = np.take(y, planted[units], axis) if units in planted else y
            y = y + np.float32(NOISE) * rng.standard_normal(shape, "float32")
            for file, values in ((a, x), (b, y)):
                file.write((to_bfloat16(values) if dtype == "BF16" else values).tobytes())
    return planted.inverse()


def largest_group(width: int, layers: int) -> int:
    """Bytes of the tensors in which the largest group appears, of one file, as float32."""
    graph = graph_of(width, layers)
    return max(
        4 * sum(math.prod(graph.shapes[name]) for name in {name for name, _ in graph.occurrences(group)})
        for group in graph.groups
    )


def resident(most: bool = False) -> int:
    """Bytes in use now, or the most there ever were; where the system does not tell, the latter."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says of a process begins with the size of its parent
        word = "VmHWM" if most else "VmRSS"
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if word in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def align(folder: Path, width: int, layers: int, seed: int) -> rb.Plan:
    a, b = (open_checkpoint(folder / f"{name}.safetensors") for name in ("a", "b"))
    graph = graph_of(width, layers)
    found = match_files(a, b, graph, seed=seed, progress=False)
    write_permuted(b, found.plan, graph, folder / "aligned.safetensors")
    return found.plan


def measure(folder: Path, width: int, layers: int, seed: int) -> None:
    """Align the pair in this process and print what it took, as JSON."""
    with tempfile.TemporaryDirectory() as tiny:
        write_pair(Path(tiny), 192, 3, "F32", seed)
        align(Path(tiny), 192, 3, seed)
    before, started = resident(), time.perf_counter()
    plan = align(folder, width, layers, seed)
    seconds = time.perf_counter() - started
    imported = [name for name in FRAMEWORKS if name in sys.modules]
    figures = {"before": before, "peak": resident(most=True), "seconds": seconds, "frameworks": imported}
    figures["plan"] = plan.to_json()
    print(json.dumps(figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048, help="units of a layer")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--dtype", choices=("F32", "BF16"), default="F32")
    parser.add_argument("--folder", type=Path, help="where to write the files; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="8 layers of 1024 units")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, layers = (1024, 8) if options.quick else (options.width, options.layers)
    if options.measure:
        measure(options.folder, width, layers, options.seed)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        planted = write_pair(folder, width, layers, options.dtype, options.seed)
        size = (folder / "a.safetensors").stat().st_size
        print(f"{layers} layers of {width} units, two files of {size / MIB:,.0f} MiB each, {options.dtype}", flush=True)
        shape = ["--width", str(width), "--layers", str(layers), "--seed", str(options.seed)]
        command = [sys.executable, __file__, "--measure", "--folder", str(folder), *shape]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    largest, grown = largest_group(width, layers), figures["peak"] - figures["before"]
    found = rb.Plan.from_json(figures["plan"]) == planted
    print(f"the planted permutation was {'found' if found else 'NOT FOUND'} in {figures['seconds']:.1f} s")
    print(f"frameworks imported: {', '.join(figures['frameworks']) or 'none'}")
    print(f"tensors of the largest group, in one file: {largest / MIB:.1f} MiB")
    print(f"resident memory grew from {figures['before'] / MIB:.0f} MiB by {grown / MIB:.1f} MiB at its peak")
    print(f"ratio: {grown / largest:.2f}, allowed {MOST:.0f}")
    return 0 if found and grown <= MOST * largest and not figures["frameworks"] else 1


if __name__ == "__main__":
    sys.exit(main())
