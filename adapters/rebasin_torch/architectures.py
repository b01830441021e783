"""Models of Hugging Face folders: built from config.json, without weights, network or foreign code."""

from pathlib import Path
from typing import Any

import torch

from rebasin_core.errors import SettingError, UnsupportedModelError

__all__ = ["from_folder"]


def from_folder(folder: Path, needs_inputs: bool = True) -> tuple[Any, tuple[Any, ...], dict[str, str]]:
    """Build the model that a folder's config.json describes, with random weights, and inputs to trace it with.

    Nothing is downloaded and no code of the folder is run: the class must be one of the installed transformers library.

    Parameters
    ----------
    folder : Path
        A local folder with config.json, as ``model.save_pretrained(folder)`` writes it.
    needs_inputs : bool, default True
        Whether inputs are wanted; without, a configuration that does not tell their shape will do.

    Returns
    -------
    model : torch.nn.Module
        Of the class that config.json names first under "architectures", in float32 and in eval mode.
    inputs : tuple
        Inputs by keyword, of the shapes the configuration tells; empty for a model that knows its own.
    stored : dict of str to str
        Names of tensors that are others in the files of this library, by their name in the model.

    Raises
    ------
    SettingError
        The configuration cannot be read.
    UnsupportedModelError
        Its class is not of the installed library.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the library makes of what stands in the file
        raise SettingError(f"{folder / 'config.json'} cannot be read: {error}") from error
    name = (config.architectures or [None])[0]
    kind = getattr(transformers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise UnsupportedModelError(
            f"{folder / 'config.json'} names the class {name!r}, which transformers {transformers.__version__} does "
            f"not have; code from a folder is never run. Install the library that has it and pass "
            f"--model package.module:factory"
        )
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    model.train(False)
    return model, _inputs(model, config) if needs_inputs else (), _stored(model)


def _stored(model: Any) -> dict[str, str]:
    """How the library renames tensors when it saves a model of a class whose modules have other names by now."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # versions before 5 renamed nothing
        return {}
    state = model.state_dict()
    names = {id(x): name for name, x in state.items()}
    # A tensor that the library takes to pieces, or puts together, comes back as another one and is left out.
    stored = {name: x for name, x in revert_weight_conversion(model, dict(state)).items() if id(x) in names}
    return {names[id(x)]: name for name, x in stored.items()}


def _inputs(model: Any, config: Any) -> tuple[Any, ...]:
    """Pictures of the size in the configuration; models of text have inputs of their own."""
    if model.main_input_name != "pixel_values":
        return ()
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if size is None:
        raise SettingError(
            "config.json does not tell the size of the pictures; pass --input, for instance "
            "--input pixel_values=1,3,224,224"
        )
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    generator = torch.Generator().manual_seed(0)
    return ({"pixel_values": torch.randn(1, channels, height, width, generator=generator)},)
