"""The benchmark of rebasin-core: ours and the peers in one process, turn by turn; run it with ``rebasin bench``."""
