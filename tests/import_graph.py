"""The import graph of the core, read from its code; ``python tests/import_graph.py`` draws it.

Every import counts: those inside functions, of ``TYPE_CHECKING`` and by ``import_module("...")`` with a literal too.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).parents[1] / "rebasin_core"

# From the bottom up: a room imports rooms that stand before it, and no other. `face` is `rebasin_core/__init__.py`.
ROOMS = (
    *("errors", "support", "backends", "sinkhorn_operator", "symmetry", "inference", "models", "line", "objectives"),
    *("solvers", "verification", "alignment", "merging", "continual", "checkpoints", "testing"),
    *("face", "commands", "cli"),
)


def modules() -> dict[str, Path]:
    """Every module of the core by its dotted name without the root; the face is ``""``."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, of any package, as it names them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def file_graph() -> dict[str, set[str]]:
    """Per module the modules it imports; a name imported from a package leads to the package."""
    known = modules()
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for target in imported(path):
            root, _, rest = target.partition(".")
            if root == "rebasin_core":
                while rest not in known:
                    rest = rest.rpartition(".")[0]
                graph[name].add(rest)
    return graph


def room(module: str) -> str:
    """The room in which a module lies."""
    return module.partition(".")[0] or "face"


def arrows() -> dict[tuple[str, str], list[str]]:
    """Every arrow from room to room, with the imports it stands for."""
    found = defaultdict(list)
    for module, targets in file_graph().items():
        for target in targets:
            if room(module) != room(target):
                found[room(module), room(target)].append(f"{module} -> {target or 'face'}")
    return dict(found)


def circles() -> list[list[str]]:
    """Modules that import each other, directly or in a round, the face left out: it imports all and none imports it."""
    graph = file_graph()
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            for target in graph[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        reach[start] = seen
    return sorted({tuple(sorted(m for m in reach[name] if name in reach[m])) for name in graph if name in reach[name]})


def draw() -> str:
    """The rooms from the top down, whom each imports, and how many circles and arrows upward there are."""
    found = arrows()
    lines = []
    for name in reversed(ROOMS):
        below = [other for other in ROOMS if (name, other) in found]
        lines.append(f"{name:>17} -> {', '.join(below) or 'nothing'}")
    upward = [pair for pair in found if ROOMS.index(pair[0]) <= ROOMS.index(pair[1])]
    files = len(modules())
    lines.append(
        f"{files} files in {len(ROOMS)} rooms, {len(found)} arrows, {len(circles())} circles, {len(upward)} upward"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw())
