"""Peers: absent ones say how to get them, two of one name stand side by side."""

import importlib.util
import os
import sys

import pytest
from rebasin_bench.peers import AUTHORS, OTT, POT, SNIMU, PeerAbsentError, Peers, import_isolated

GIVEN = pytest.mark.skipif("REBASIN_PEERS" not in os.environ, reason="REBASIN_PEERS does not say where the peers are")


@pytest.fixture(autouse=True)
def nothing_leaks():
    modules = {name for name in sys.modules if name.partition(".")[0] == "rebasin"}
    path = list(sys.path)
    yield
    assert {name for name in sys.modules if name.partition(".")[0] == "rebasin"} == modules
    assert sys.path == path


@pytest.mark.parametrize(("peer", "package"), [(AUTHORS, "sinkhorn-rebasin==0.0.2"), (SNIMU, "rebasin==0.0.47")])
def test_an_absent_peer_says_how_to_get_it(monkeypatch, tmp_path, peer, package):
    monkeypatch.delenv("REBASIN_PEERS", raising=False)
    for folder in (None, tmp_path):
        (line,) = Peers.find(folder).absent(peer)
        assert package in line
        assert "--peers" in line
        assert "\n" not in line


@pytest.mark.parametrize(("peer", "module", "package"), [(POT, "ot", "POT"), (OTT, "ott", "ott-jax")])
def test_an_ordinary_package_that_is_absent(monkeypatch, peer, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PeerAbsentError, match=f"pip install {package}"):
        Peers().get(peer)


def test_two_packages_of_one_name_live_side_by_side(tmp_path):
    for name in ("one", "two"):
        package = tmp_path / name / "twin"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from twin.inner import NAME\nimport warnings\nwarnings.warn('x')\n")
        (package / "inner.py").write_text(f"NAME = {name!r}\n")
        (package / "loss.py").write_text("from .inner import NAME as LOSS\n")
    one = import_isolated(tmp_path / "one", "twin", "peer_one", "loss")
    two = import_isolated(tmp_path / "two", "twin", "peer_two", "loss")
    try:
        assert (one.NAME, two.NAME, one.loss.LOSS, two.loss.LOSS) == ("one", "two", "one", "two")
        assert "twin" not in sys.modules
        assert sys.modules["peer_two.inner"].NAME == "two"
    finally:
        for name in [name for name in sys.modules if name.startswith(("peer_one", "peer_two"))]:
            del sys.modules[name]


def test_a_package_that_cannot_be_imported_leaves_nothing(tmp_path):
    folder = tmp_path / SNIMU / "rebasin"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import no_such_module_at_all\n")
    (line,) = Peers(tmp_path).absent(SNIMU)
    assert "no_such_module_at_all" in line


@GIVEN
def test_both_peers_side_by_side():
    peers = Peers.find(None)
    assert hasattr(peers.get(AUTHORS).rebasinnet.sinkhorn, "Sinkhorn")
    assert hasattr(peers.get(AUTHORS).loss, "MidLoss")
    assert hasattr(peers.get(SNIMU), "PermutationCoordinateDescent")
    assert peers.get(AUTHORS) is peers.get(AUTHORS)


@pytest.mark.skipif(importlib.util.find_spec("ot") is None, reason="POT is absent")
def test_pot_is_found():
    assert callable(Peers().get(POT).sinkhorn)
