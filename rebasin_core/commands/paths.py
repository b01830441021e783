"""Files that a command reads and writes; what cannot be written in the end is refused before the work."""

from collections.abc import Sequence
from pathlib import Path

from rebasin_core.checkpoints.files import READERS, Checkpoint, open_checkpoint
from rebasin_core.errors import CheckpointError, SettingError

__all__ = ["check_absent", "check_checkpoint_out", "check_picture_out", "open_file"]

# Two endings of one format.
SAME = {".pth": ".pt"}
# A checkpoint in pieces is written in one.
INDEX = ".safetensors.index.json"
PICTURES = (".png", ".pdf", ".svg")


def open_file(path: Path) -> Checkpoint:
    """Open a checkpoint, or the one in a folder.

    Raises
    ------
    CheckpointError
        The file cannot be read, or the folder does not hold exactly one checkpoint.
    """
    return open_checkpoint(_in_folder(path) if path.is_dir() else path)


def _in_folder(folder: Path) -> Path:
    whole = folder / "model.safetensors"
    if whole.is_file():
        return whole
    index = folder / f"model{INDEX}"
    if index.is_file():
        return index
    found = sorted(path for path in folder.iterdir() if path.suffix in READERS)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{folder}: expected one checkpoint in this folder, found {names}; name the file")
    return found[0]


def check_checkpoint_out(out: Path, like: Checkpoint, inputs: Sequence[Checkpoint], force: bool) -> None:
    """Raise `CheckpointError` unless a checkpoint like that one may be written to `out`."""
    if _format(out) != _format(like.path):
        raise CheckpointError(
            f"{out} is to hold what {like.path} holds, in the same format; give it a name that ends in "
            f"{_format(like.path)}"
        )
    for file in inputs:
        if out.exists() and out.samefile(file.path) and not force:
            raise CheckpointError(
                f"{out} is one of the files to read; choose another name, or overwrite it with --force"
            )
    check_absent(out, force)


def check_absent(out: Path | None, force: bool) -> None:
    """Raise `CheckpointError` unless a file may be written there."""
    if out is None:
        return
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder; expected the name of a file to write")
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: the folder {str(out.parent)!r} does not exist; make it, or choose another name")
    if out.exists() and not force:
        raise CheckpointError(f"{out} exists; choose another name, or overwrite it with --force")


def check_picture_out(out: Path | None, force: bool) -> None:
    """Raise `SettingError` or `CheckpointError` unless a picture may be written there."""
    if out is not None and out.suffix.lower() not in PICTURES:
        raise SettingError(f"expected a picture file ending in {', '.join(PICTURES)}; got {str(out)!r}")
    check_absent(out, force)


def _format(path: Path) -> str:
    return ".safetensors" if path.name.endswith(INDEX) else SAME.get(path.suffix, path.suffix)
