"""``rebasin inspect``."""

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from rebasin_core.checkpoints.architecture import Architecture, find_architecture
from rebasin_core.checkpoints.files import Checkpoint, TensorInfo
from rebasin_core.commands import options
from rebasin_core.commands.paths import check_absent, open_file
from rebasin_core.commands.reporting import Report, reporting
from rebasin_core.errors import SettingError
from rebasin_core.support.atomic import replacing

__all__ = ["inspect"]

LONGEST_VALUE = 60


def inspect(
    file: options.File,
    axes: options.Axes = None,
    model: options.Model = None,
    kwargs: options.Kwargs = None,
    inputs: options.Input = None,
    axes_out: Annotated[
        Path | None,
        typer.Option(
            help="Write the axes that were found to this JSON file, for --axes.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Show what a checkpoint holds and, where the architecture is known, what may be permuted in it.

    The values of the tensors are not read.
    """
    with reporting(as_json) as report:
        check_absent(axes_out, force)
        checkpoint = open_file(file)
        architecture = find_architecture(checkpoint, options.source(axes, model, kwargs, inputs))
        if axes_out is not None and architecture is None:
            raise SettingError(
                f"--axes-out: nothing tells the architecture of {checkpoint.path}; pass --model, or --axes"
            )
        _tell_tensors(checkpoint, report)
        _tell_graph(architecture, report)
        if axes_out is not None and architecture is not None:
            with replacing(axes_out) as text:
                text.write(architecture.graph.to_json().encode() + b"\n")
            report.facts["axes_out"] = str(axes_out)
            report.say(f"wrote {axes_out}")


def _tell_tensors(file: Checkpoint, report: Report) -> None:
    sizes = {name: _bytes(info) for name, info in file.tensors.items()}
    own = [name for name in file.tensors if file.tied.get(name, name) == name]
    entries, total = sum(math.prod(file.tensors[name].shape) for name in own), sum(sizes[name] for name in own)
    report.facts |= {
        "file": str(file.path),
        "tensors": [
            {"name": name, "shape": list(info.shape), "dtype": info.dtype, "bytes": sizes[name]}
            | ({} if name in own else {"tied_to": file.tied[name]})
            for name, info in file.tensors.items()
        ],
        "entries": entries,
        "bytes": total,
        "metadata": dict(file.metadata),
    }
    rows = [
        (
            name if name in own else f"{name} (tied to {file.tied[name]})",
            " x ".join(map(str, info.shape)) or "one number",
            info.dtype,
            _told(sizes[name]) if name in own else "",
        )
        for name, info in file.tensors.items()
    ]
    report.table(str(file.path), ("tensor", "shape", "dtype", "size"), rows)
    report.say(f"{len(rows):,} tensors; {entries:,} entries; {_told(total)}")
    for key, value in file.metadata.items():
        report.say(f"metadata: {key} = {_short(value)}")


def _tell_graph(architecture: Architecture | None, report: Report) -> None:
    if architecture is None:
        report.facts["graph"] = None
        report.say("architecture: not known; with --model or --axes, what may be permuted is shown here")
        return
    graph = architecture.graph
    report.facts["graph"] = {
        "groups": [
            {
                "name": group,
                "size": size,
                "parent": graph.parents.get(group),
                "reorders": [list(place) for place in graph.occurrences(group)],
            }
            for group, size in graph.groups.items()
        ],
        "coverage": graph.coverage,
        "pinned": [[name, axis, reason] for (name, axis), reason in graph.pinned.items()],
        "buffers": sorted(graph.buffers),
    }
    report.say(str(graph))


def _bytes(info: TensorInfo) -> int:
    bits = re.search(r"\d+", info.dtype)
    return -(-math.prod(info.shape) * (int(bits[0]) if bits else 8) // 8)


def _told(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + " ..."
