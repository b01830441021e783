"""The models of ``keras.applications``: how each is built at its smallest, and a table of what becomes of it.

``python -m tests.adapters.keras.zoo.applications`` prints the table, or the rows of the models named behind it.
"""

import inspect
import sys

import keras
import numpy as np

from .harness import check

__all__ = ["ALL", "LARGEST", "QUICK", "check_application", "is_offered"]

ALL = sorted(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))

# One of every kind of block: what is run where compiling takes longer than computing.
QUICK = {"ConvNeXtTiny", "MobileNetV2", "MobileNetV3Small", "ResNet50V2"}

# The largest of each family.
LARGEST = {
    *("ConvNeXtLarge", "ConvNeXtXLarge", "DenseNet201", "EfficientNetB6", "EfficientNetB7", "EfficientNetV2L"),
    *("EfficientNetV2M", "InceptionResNetV2", "NASNetLarge", "ResNet152", "ResNet152V2", "VGG19"),
}

# The smallest pictures a model accepts, where that is not 32 x 32.
SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}

HEADER = """| model | parameters | groups | moved | error | seconds |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def check_application(name):
    """Build a model without weights, randomize all of them, and check a random plan over all groups."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    size = SIZES.get(name, 32)
    # Logits: a softmax of a thousand classes would hide much of what changes.
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    x = np.random.default_rng(0).standard_normal((2, size, size, 3))
    if any(isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)) for layer in model.layers):
        x = 128.0 + 64.0 * x  # the model scales pixels itself
    return check(model, x.astype("float32"), moved=0.95, clone=False, balanced=True)


def is_offered(name):
    """Whether Keras builds a model on this backend: NASNetMobile is left out with PyTorch."""
    return name != "NASNetMobile" or keras.backend.backend() != "torch"


def main(names):
    print(HEADER)
    for name in filter(is_offered, names):
        report = check_application(name)
        row = f"| {name} | {report.parameters:,} | {len(report.graph.groups)} | {100 * report.moved:.2f} % "
        print(row + f"| {report.error:.1e} | {report.seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ALL)
