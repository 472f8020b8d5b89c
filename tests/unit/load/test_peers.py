import ast
import json
from pathlib import Path

import pytest

import load.peers
from load.peers import PEERS
from load.peers.nchan import modules_directory
from load.peers.peer import PAYLOAD_KIND, find_program, payload_of
from load.sink_worker import KIND_AT


@pytest.mark.parametrize("size", [25, 100, 336, 70_000])
def test_a_payload_has_the_size_and_counts_as_a_delta(size: int) -> None:
    payload = payload_of(size)
    assert len(payload) == size
    assert json.loads(payload)["type"] == "delta"
    assert chr(payload[KIND_AT]) == PAYLOAD_KIND


def test_a_payload_can_not_be_shorter_than_its_form() -> None:
    with pytest.raises(ValueError, match="at least 25 bytes"):
        payload_of(24)


def test_nginx_tells_where_its_modules_are() -> None:
    said = (
        "nginx version: nginx/1.22.1\nconfigure arguments: --conf-path=/etc --modules-path=/usr/lib/n/m --x\n"
    )
    assert modules_directory(said) == Path("/usr/lib/n/m")
    assert modules_directory("nginx version: nginx/1.22.1\n") is None


def test_programs_are_found_on_the_path_and_where_go_and_debian_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "more" / "server"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr("load.peers.peer._MORE_PLACES", (tmp_path / "none", program.parent))
    assert find_program("server") == str(program)
    assert find_program("no-such-server") is None
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr("load.peers.peer._MORE_PLACES", ())
    assert find_program("server") == str(program)


def test_every_peer_has_a_name_of_its_own_and_one_line_that_installs_it() -> None:
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    for peer in PEERS:
        assert peer.how.startswith(("pip install ", "apt-get install ", "npm install ", "go install "))
        assert "\n" not in peer.how + peer.remark


def test_a_peer_that_is_not_installed_does_not_stop_the_registry() -> None:
    """Packages that only a comparison needs are imported where they are used."""
    optional = {"aiofastnet", "picows", "wsproto"}
    for path in Path(load.peers.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert optional.isdisjoint(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in optional
