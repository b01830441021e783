"""The benchmark needs torch for its peers; where it is absent nothing of it is tested."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("rich") and find_spec("matplotlib") else ["test_*.py"]
