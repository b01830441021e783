"""The families of torchvision: random plans keep the outputs, and the groups are those of a hand count where there is
one.

Hand counts: one group per layer whose channels nothing else fixes, a group per residual stream, and three for an
attention layer (heads, channels of queries and keys, channels of values). DenseNet-121: the stem, two per dense
layer, three transitions.
"""

import pytest

torch = pytest.importorskip("torch")
try:
    from torchvision import models
except Exception:  # torchvision refuses to load beside another torch than its own
    pytest.skip("torchvision does not load here", allow_module_level=True)

from rebasin_torch.tracing import trace  # noqa: E402

from .harness import check_family  # noqa: E402

# name: (size of the images, groups, local ones, least share of entries that move, how to build)
FAST = {
    "alexnet": (96, 7, 0, 0.9),
    "vgg11": (32, 10, 0, 0.9),
    "vgg11_bn": (32, 10, 0, 0.9),
    "resnet18": (64, 12, 0, 0.9),
    "resnet50": (64, 37, 0, 0.9),
    "squeezenet1_1": (64, 25, 0, 0.9),
    "mobilenet_v2": (64, 25, 0, 0.9),
    "mobilenet_v3_small": (64, 27, 0, 0.9),
    "shufflenet_v2_x0_5": (64, 80, 0, 0.9),
    "regnet_x_400mf": (64, 71, 22, 0.9),
    "convnext_tiny": (64, 22, 0, 0.9),
    "vit_b_16": (32, 49, 24, 0.9),
    "swin_t": (64, 52, 24, 0.9),
}
# The auxiliary heads of GoogLeNet and Inception v3 do not run in eval mode, so that their parameters stay.
SLOW = {
    "resnext50_32x4d": (64, 53, 16, 0.9),
    "wide_resnet50_2": (64, 37, 0, 0.9),
    "densenet121": (64, 120, 0, 0.9),
    "googlenet": (64, 57, 0, 0.5),
    "inception_v3": (96, 94, 0, 0.85),
    "mnasnet0_5": (64, 25, 0, 0.9),
    "efficientnet_b0": (64, 40, 0, 0.9),
    "efficientnet_v2_s": (64, 75, 0, 0.9),
    "regnet_y_400mf": (64, 69, 16, 0.9),
    "swin_v2_t": (64, 64, 24, 0.9),
    "maxvit_t": (224, 117, 44, 0.9),
}


def build(name, size):
    options = {
        "vit_b_16": {"image_size": size},
        "googlenet": {"init_weights": False},
        "inception_v3": {"init_weights": False},
    }
    torch.manual_seed(0)
    return getattr(models, name)(weights=None, **options.get(name, {}))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_random_plan_moves_the_parameters_and_keeps_the_outputs(name):
    size, groups, local, moved = {**FAST, **SLOW}[name]
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    report = check_family(build(name, size), images, moved=moved)
    assert report.counts == (groups, local), str(report.graph)


def test_tables_that_are_not_learned_stay():
    graph = trace(build("swin_v2_t", 64), torch.zeros(1, 3, 64, 64))
    tables = [name for name in graph.axes if name.endswith("relative_coords_table")]
    assert tables
    assert all(not graph.axes[name].groups for name in tables)


@pytest.mark.parametrize("name", ["resnet152", "vit_b_16"])
def test_models_on_meta_give_the_same_graph(name):
    with torch.device("meta"):
        model, images = build(name, 224), torch.zeros(1, 3, 224, 224)
    graph = trace(model, images)
    assert len(graph.groups) == {"resnet152": 105, "vit_b_16": 49}[name]
    assert graph.coverage > 0.99
