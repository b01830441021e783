"""How much of a large array or file is worked on at once, so that no temporary of its size is made."""

__all__ = ["CHUNK"]

CHUNK = 2**16
"""Numbers of an array, or bytes of a file."""
