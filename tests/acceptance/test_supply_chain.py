"""What the gateway is built on: pinned by hash, listed, and put into an image that runs as nobody."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("runtime.lock", "dev.lock")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?= |$)")
PINNED = re.compile(r"([a-z0-9][a-z0-9._-]*)(?:\[[a-z0-9,_-]+\])?==([^\s;]+)( ; .+?)?(?= --hash)")


def requirements(lock: str) -> list[str]:
    """The entries of a lock, a line each."""
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def pinned(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Version and hashes by name."""
    found = {}
    for line in requirements(lock):
        match = PINNED.match(line)
        assert match is not None, line
        found[match[1]] = (match[2], set(HASH.findall(line)))
    return found


class TestTheLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_line_is_one_version_and_its_hashes(self, lock: str) -> None:
        assert len(requirements(lock)) > 20
        for line in requirements(lock):
            assert PINNED.match(line), line
            rest = HASH.sub("", line[line.index("--hash") :])
            assert HASH.search(line), line
            assert rest.strip() == "", line

    @pytest.mark.parametrize("lock", LOCKS)
    def test_nothing_comes_from_elsewhere(self, lock: str) -> None:
        """From a URL, a path, a repository or another index: hashes or not, nobody would audit it."""
        assert not re.search(r"://|^-|@ | file:", "\n".join(requirements(lock)), re.MULTILINE)

    def test_what_is_tested_is_what_is_shipped(self) -> None:
        tested, shipped = pinned("dev.lock"), pinned("runtime.lock")
        assert {name: tested[name] for name in shipped} == shipped


def bill(to: Path) -> dict[str, Any]:
    """As `make sbom` has it."""
    recipe = re.search(
        r"-m cyclonedx_py (.*?)requirements/runtime\.lock", (ROOT / "Makefile").read_text(), re.DOTALL
    )
    assert recipe is not None
    arguments = recipe[1].replace("\\\n", " ").replace("$(SBOM)", str(to)).split()
    command = (sys.executable, "-W", "ignore", "-m", "cyclonedx_py", *arguments, "requirements/runtime.lock")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = orjson.loads(to.read_bytes())
    return found


class TestTheBillOfMaterials:
    def test_lists_what_is_shipped_with_its_hashes(self, tmp_path: Path) -> None:
        found = bill(tmp_path / "sbom.json")
        assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
        assert found["metadata"]["component"]["name"] == "inventory-gateway"
        listed = {
            component["name"]: (
                component["version"],
                {entry["content"] for place in component["externalReferences"] for entry in place["hashes"]},
            )
            for component in found["components"]
        }
        assert listed == pinned("runtime.lock")

    def test_is_the_same_for_the_same_lock(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one.json", tmp_path / "other.json"
        bill(one)
        bill(other)
        assert one.read_bytes() == other.read_bytes()


class TestTheImage:
    """With tests/acceptance/test_packaging.py, which looks at what it holds and whom it runs as."""

    TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")

    def test_nothing_is_installed_without_a_hash(self) -> None:
        installs = re.findall(r"(?:RUN|&&) pip (?:--python \S+ )?install (.*)", self.TEXT)
        assert len(installs) == 3
        for install in installs:
            from_locks = "--require-hashes" in install and "--only-binary :all:" in install
            assert from_locks or ("--no-deps" in install and "/wheels/" in install)

    def test_nothing_secret_is_a_layer_and_nothing_is_fetched_by_hand(self) -> None:
        assert not re.search(r"^(ARG|ENV) .*(SECRET|TOKEN|PASSWORD|KEY|_URL)", self.TEXT, re.MULTILINE)
        assert not re.search(r"^ADD |curl |wget |apt-get ", self.TEXT, re.MULTILINE)

    def test_nothing_is_run_as_root_in_what_is_shipped(self) -> None:
        shipped = self.TEXT[self.TEXT.rindex("\nFROM ") :]
        assert not re.search(r"^RUN ", shipped, re.MULTILINE)
        assert shipped.index("\nUSER ") < shipped.index("\nENTRYPOINT ")
        assert "\nHEALTHCHECK " in shipped


def test_the_workflow_asks_for_known_holes_and_reads_only() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    for command in ("make audit", "make sbom", "make check"):
        assert f"- run: {command}\n" in workflow
    assert re.search(r"^permissions:\n  contents: read\n\n", workflow, re.MULTILINE)
    assert "write" not in workflow
    assert "secrets." not in workflow
