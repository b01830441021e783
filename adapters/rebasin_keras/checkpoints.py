"""Files of Keras: ``.keras``, a model with its weights."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rebasin_core.backends.dtypes import is_narrow
from rebasin_core.checkpoints.files import NewValues, TensorInfo, like_stored
from rebasin_core.errors import CheckpointError, RebasinError
from rebasin_core.support.atomic import replacing
from rebasin_keras.adapter import KerasAdapter

__all__ = ["KerasFile"]

# What describes the model in the archive, and not its weights.
DESCRIPTIONS = ("config.json", "metadata.json")

# Where the classes of a model may come from, unless a person registered them.
PACKAGES = ("keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")


class KerasFile:
    """A file of ``model.save("a.keras")``; see `rebasin_core.checkpoints.files.Checkpoint`.

    The model is loaded by Keras in its safe mode. On top of that, a file that holds the byte code of a lambda, or names
    a class of a package other than Keras' own that was not registered, is refused before Keras sees it: not all
    versions of Keras do so. All weights are in memory. A new file has the same architecture and compile settings; an
    optimiser starts afresh, as what it remembers of every weight belongs to their old order.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    model : keras.Model
        The model in it, not compiled.

    Raises
    ------
    CheckpointError
        The file is not of this format, would run code, or needs a class that is not registered.

    Examples
    --------
    >>> import warnings
    >>> path, layers = Path(tempfile.mkdtemp()) / "a.keras", [keras.Input((3,)), keras.layers.Dense(2, name="out")]
    >>> with warnings.catch_warnings(action="ignore"):  # of Keras, with NumPy 2
    ...     keras.Sequential(layers).save(path)
    ...     file = KerasFile(path)
    >>> {name: str(info) for name, info in file.tensors.items()}
    {'out/kernel': 'float32[3, 2]', 'out/bias': 'float32[2]'}
    """

    tied: dict[str, str] = {}  # noqa: RUF012, a weight that layers share has one name
    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                _check_config(json.loads(archive.read("config.json")))
            self.model = keras.saving.load_model(path, compile=False, safe_mode=True)
            self._params = KerasAdapter().params(self.model)
        except RebasinError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # Keras, h5py and zipfile raise nearly anything on bytes that mean nothing
            raise CheckpointError(
                f"{path} is no file of Keras, is damaged, or holds a class of one's own, which "
                f"keras.saving.register_keras_serializable has to make known first: {str(error)[:300]}"
            ) from None
        self.tensors = {
            name: TensorInfo(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
            for name, x in self._params.items()
        }

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one weight; floats that NumPy lacks come as float32."""
        x, dtype = self._params[name], self.tensors[name].dtype
        narrow = is_narrow(dtype) and dtype != "float16"
        return np.array(keras.ops.convert_to_numpy(keras.ops.cast(x, "float32") if narrow else x), order="C")

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write a file with the same architecture and other weights."""
        values = {name: self._like(name, tensor(name)) for name in self.tensors}
        copy = KerasAdapter().rebuild(self.model, values)
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / "model.keras"
            copy.save(saved)
            # The description is the old one: that of the copy lacks the compile settings, which were not loaded.
            with (
                replacing(path) as target,
                zipfile.ZipFile(self.path) as old,
                zipfile.ZipFile(saved) as made,
                zipfile.ZipFile(target, "w") as archive,
            ):
                for entry in made.infolist():
                    origin = old if entry.filename in DESCRIPTIONS else made
                    archive.writestr(entry, origin.read(entry.filename))

    def _like(self, name: str, values: np.ndarray[Any, Any] | None) -> Any:
        x = self._params[name]
        return x if values is None else keras.ops.cast(like_stored(values, name, self.tensors[name]), x.dtype)


def _check_config(config: Any) -> None:
    """Raise for what would run code of the file, or import modules that it names."""
    for entry in _objects(config):
        if entry["class_name"] == "__lambda__":
            raise CheckpointError(
                "it holds the byte code of a lambda, which would run, and was not loaded; give the layer a function "
                "that keras.saving.register_keras_serializable makes known"
            )
        package = str(entry.get("module") or "keras").partition(".")[0]
        if package not in PACKAGES and keras.saving.get_registered_object(str(entry.get("registered_name"))) is None:
            raise CheckpointError(
                f"it names {str(entry['class_name'])!r} of {str(entry['module'])!r}, which is not registered, and was "
                f"not loaded; import the module in which keras.saving.register_keras_serializable makes it known first"
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every entry that stands for an object, at any depth."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value
