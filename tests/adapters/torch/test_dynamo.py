"""TensorFlow and triton in one process: whichever is loaded first, a module is traced, aligned and learned."""

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

NETWORKS = """
import torch
from torch import nn
import rebasin_core as rb
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
a, b, x, y = network(), network(), torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 0, 1])
"""
WORK = """
graph = rb.permutation_graph(a, x)
rb.verify(a, graph, x)
loss = nn.functional.cross_entropy
midpoint = rb.objectives.Midpoint(loss, (x, y))
for solver in (rb.solvers.Sinkhorn(max_steps=3), rb.solvers.StraightThrough(max_steps=3), "matching"):
    solver = rb.solvers.WeightMatching() if solver == "matching" else solver
    objective = None if isinstance(solver, rb.solvers.WeightMatching) else midpoint
    result = rb.align(a, b, x, graph=graph, objective=objective, solver=solver, progress=False)
rb.connectivity(a, result.model, loss, (x, y))
from rebasin_torch import RebasinNet
net = RebasinNet(b, graph)
optimizer = torch.optim.Adam(net.parameters())
loss(net(x), y).backward()
optimizer.step()
net.model()
"""


def run(code, path=None):
    environment = {**os.environ, "PYTHONPATH": str(path), "TF_CPP_MIN_LOG_LEVEL": "3"} if path else None
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.fixture
def stand_ins(tmp_path):
    """A folder with a TensorFlow that does nothing and a triton that ends the process, as the real one does then."""
    for name, body in {"tensorflow": "", "triton": "import os; os._exit(77)"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(body)
    return tmp_path


def test_the_stand_in_for_triton_ends_a_process(stand_ins):
    assert run("import tensorflow, torch, torch._dynamo", stand_ins).returncode == 77


def test_nothing_of_this_package_imports_triton_once_tensorflow_is_loaded(stand_ins):
    done = run("import sys, tensorflow\n" + NETWORKS + WORK + "assert 'triton' not in sys.modules", stand_ins)
    assert done.returncode == 0, done.stderr[-2000:]


def test_triton_is_kept_out_only_for_the_time_and_only_beside_tensorflow(stand_ins):
    code = f"""
        import importlib, sys
        from concurrent.futures import ThreadPoolExecutor
        from rebasin_torch.dynamo import keep_triton_out

        def let_in(_=None):
            try:
                importlib.import_module("triton")
            except ImportError:
                return False
            return True

        def let_in_under_guard(_=None):
            with keep_triton_out():
                return let_in()

        sys.path.insert(0, {str(stand_ins)!r})
        sys.modules.pop("triton", None)
        assert let_in_under_guard()  # without TensorFlow nothing is done
        import tensorflow
        assert let_in_under_guard()  # it is loaded already: nothing is done
        del sys.modules["triton"]
        with ThreadPoolExecutor(4) as threads:
            assert not any(threads.map(let_in_under_guard, range(2000)))
        assert let_in()  # afterwards it is the user's again
    """
    (stand_ins / "triton" / "__init__.py").write_text("")
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]


ORDERS = {
    "tensorflow-first": "import tensorflow\n" + NETWORKS + WORK,
    "torch-first": NETWORKS + "import tensorflow\n" + WORK,
    "adapter-first": NETWORKS + "import rebasin_torch, tensorflow\n" + WORK,
    "traced-first": NETWORKS + WORK + "import tensorflow\n" + WORK,
    "keras-beside": "import keras\n"
    + NETWORKS
    + """
layers = lambda: [keras.Input((4,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(2)]
k, l = keras.Sequential(layers()), keras.Sequential(layers())
moved = rb.align(k, l, solver=rb.solvers.WeightMatching(), progress=False).model
assert type(moved) is type(l)
"""
    + WORK,
}
SLOW = {"torch-first", "traced-first"}


@pytest.mark.parametrize(
    "order", [pytest.param(order, marks=[pytest.mark.slow] if order in SLOW else []) for order in ORDERS]
)
def test_torch_is_traced_aligned_and_learned_beside_tensorflow(order):
    """With the triton that torch brings, in every order in which the two can be loaded."""
    missing = [name for name in ("tensorflow", "triton") if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    done = run(ORDERS[order])
    assert done.returncode == 0, done.stderr[-2000:]
