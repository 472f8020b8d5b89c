"""What `doctor` says of this machine and of what servers tell about themselves."""

import resource
from pathlib import Path

import pytest

from gateway.commands.doctor import examine_host
from gateway.config import Settings
from listeners import doctor_postgres, doctor_redis
from listeners.findings import Finding, Grade


def host(
    tmp_path: Path, *, files: int, backlog: str | None = None, max_connections: int = 0
) -> list[Finding]:
    somaxconn = tmp_path / "somaxconn"
    if backlog is not None:
        somaxconn.write_text(backlog)
    return list(examine_host(Settings(max_connections=max_connections), files=files, somaxconn=somaxconn))


class TestThisMachine:
    def test_enough_files(self, tmp_path: Path) -> None:
        (finding,) = host(tmp_path, files=65536)
        assert (finding.grade, finding.found) == (Grade.OK, "65536")

    def test_no_limit_at_all(self, tmp_path: Path) -> None:
        (finding,) = host(tmp_path, files=resource.RLIM_INFINITY, max_connections=10**6)
        assert (finding.grade, finding.found) == (Grade.OK, "unlimited")

    def test_few_files(self, tmp_path: Path) -> None:
        (finding,) = host(tmp_path, files=1024)
        assert finding.grade is Grade.WARNING
        assert "ulimit -n" in finding.advice

    def test_fewer_files_than_connections_allowed(self, tmp_path: Path) -> None:
        (finding,) = host(tmp_path, files=5000, max_connections=5000)
        assert finding.grade is Grade.FAILURE
        assert "5100" in finding.advice

    @pytest.mark.parametrize(("backlog", "grade"), [("4096\n", Grade.OK), ("128\n", Grade.WARNING)])
    def test_the_listen_backlog(self, tmp_path: Path, backlog: str, grade: Grade) -> None:
        _, finding = host(tmp_path, files=65536, backlog=backlog)
        assert (finding.subject, finding.grade) == ("listen backlog", grade)


class TestRedis:
    def test_which_server_it_is(self) -> None:
        assert doctor_redis._version({"redis_version": "7.4.1"}).found == "Redis 7.4.1"
        valkey = {"redis_version": "7.2.4", "valkey_version": "9.1.2"}
        assert doctor_redis._version(valkey).found == "Valkey 9.1.2"

    @pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
    def test_policies_that_leave_the_relays_keys_alone(self, policy: str) -> None:
        assert doctor_redis._policy({"maxmemory_policy": policy}).grade is Grade.OK

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
    def test_policies_that_do_not(self, policy: str) -> None:
        finding = doctor_redis._policy({"maxmemory_policy": policy})
        assert finding.grade is Grade.FAILURE
        assert "noeviction" in finding.advice

    def test_memory_that_runs_out(self) -> None:
        assert doctor_redis._space({"maxmemory": "0", "used_memory": "9000000"}).found == "9 MiB used"
        assert doctor_redis._space({"maxmemory": "1000", "used_memory": "500"}).grade is Grade.OK
        assert doctor_redis._space({"maxmemory": "1000", "used_memory": "950"}).grade is Grade.WARNING

    def test_a_replica(self) -> None:
        assert doctor_redis._role({"role": "slave"}).grade is Grade.FAILURE
        assert doctor_redis._role({"role": "master"}).grade is Grade.OK

    def test_a_cluster_that_is_not_named_as_one(self) -> None:
        assert doctor_redis._mode({"redis_mode": "cluster"}, cluster=False).grade is Grade.FAILURE
        assert doctor_redis._mode({"redis_mode": "cluster"}, cluster=True).grade is Grade.OK


class TestPostgres:
    def test_why_nobody_notifies(self) -> None:
        assert "max_prepared_transactions is 10" in doctor_postgres._notify(10).found
        assert "may NOTIFY" in doctor_postgres._notify(0).found
