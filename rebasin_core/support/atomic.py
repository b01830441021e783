"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write; what was there before stays until the new one is complete and on the disk.

    What is written goes into a temporary file beside the target, which takes its place at the end. An error on the way
    removes it and leaves everything as it was.

    Parameters
    ----------
    path : path
        The target.

    Raises
    ------
    OSError
        The folder is absent or cannot be written, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes"
    >>> with replacing(target) as file:
    ...     _ = file.write(b"all of it")
    >>> target.read_bytes()
    b'all of it'
    """
    target = Path(path)
    # Made by open(), and not by tempfile, so that it is as readable by others as any file of this person.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
