"""The wheel that the container image and a user's `pip install` get, built from this tree."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from gateway.config import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "listeners", "protocol")
NO_PART_OF_A_RELEASE = {".pyc", ".pyo", ".orig", ".swp"}


def run(*command: str, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    done = subprocess.run(
        command, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory), cwd=ROOT)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


class TestTheWheel:
    @pytest.mark.parametrize("package", PACKAGES)
    def test_holds_every_file_of_a_package(self, package: str, names: set[str]) -> None:
        tree = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        }
        assert {name for name in names if name.startswith(f"{package}/")} == tree

    @pytest.mark.parametrize(
        "suffix", [".css", ".html", ".js", ".json", ".lua", ".py", ".sql", ".toml", ".ts"]
    )
    def test_holds_more_than_modules(self, suffix: str, names: set[str]) -> None:
        assert any(name.endswith(suffix) for name in names)

    def test_holds_nothing_else(self, names: set[str]) -> None:
        tops = {name.partition("/")[0] for name in names}
        (metadata,) = tops - set(PACKAGES)
        assert metadata.endswith(".dist-info")
        assert {Path(name).suffix for name in names} & NO_PART_OF_A_RELEASE == set()

    def test_carries_the_licence_and_the_command(self, names: set[str], installed: Path) -> None:
        assert any(name.endswith("/licenses/LICENSE") for name in names)
        (points,) = installed.glob("*.dist-info/entry_points.txt")
        assert "inventory-gateway = gateway.__main__:main" in points.read_text()


class TestInstalled:
    """The wheel's files alone, away from the tree."""

    def test_they_are_what_is_run(self, installed: Path, tmp_path: Path) -> None:
        code = "import gateway as g, listeners as l, protocol as p; print(g.__file__, l.__file__, p.__file__)"
        places = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).split()
        assert all(Path(place).is_relative_to(installed) for place in places)

    def test_the_command_tells_its_version(self, installed: Path, tmp_path: Path) -> None:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        said = run(sys.executable, "-m", "gateway", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
        assert said.strip().endswith(version)

    def test_a_database_is_migrated_from_them(
        self, installed: Path, tmp_path: Path, empty_database_url: str
    ) -> None:
        """SQL and TOML files are found where the wheel puts them."""
        variables = {
            "PYTHONPATH": str(installed),
            "GATEWAY_DATABASE_URL": empty_database_url,
        }
        run(sys.executable, "-m", "gateway", "migrate", cwd=tmp_path, **variables)
        run(sys.executable, "-m", "gateway", "migrate", "--check", cwd=tmp_path, **variables)


def instructions() -> list[tuple[str, str]]:
    """The container file's lines as (instruction, arguments)."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


class TestTheContainerFile:
    """There may be no container engine here; what the file says of the project is checked."""

    def test_what_it_copies_exists_and_is_not_ignored(self) -> None:
        copies = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
        let_in = re.findall(r"^!([^/\n]+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        sources = [name.rstrip("/") for copied in copies for name in copied if "--from" not in copied[0]]
        assert {*PACKAGES, "requirements", "pyproject.toml"} <= set(sources)
        assert [source for source in sources if not (ROOT / source).exists() or source not in let_in] == []

    def test_it_copies_what_the_build_reads(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        copied = " ".join(rest for word, rest in instructions() if word == "COPY").split()
        assert {project["readme"], *project["license-files"]} <= set(copied)

    def test_it_exposes_the_ports_of_the_settings(self) -> None:
        ports = [Settings.model_fields[name].default.port for name in ("listen", "ops_listen")]
        said = dict(instructions())
        assert said["EXPOSE"].split() == [str(port) for port in ports]
        assert f":{ports[1]}/healthz" in said["HEALTHCHECK"]
        assert f"0.0.0.0:{ports[1]}" in said["CMD"]

    def test_it_does_not_run_as_root(self) -> None:
        user, _, group = dict(instructions())["USER"].partition(":")
        assert int(user) > 0
        assert int(group) > 0
