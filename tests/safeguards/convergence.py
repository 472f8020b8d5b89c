"""What keeps copies right, complete and no newer or older than they say."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["CONVERGENCE_SAFEGUARDS"]


_STORE: Final = "tests/integration/test_topic_store.py"
_FOLDING: Final = "tests/unit/listeners/test_folding.py"
_HUB: Final = "tests/unit/gateway/test_hub.py"
_IDENTITY: Final = "tests/integration/test_generation.py"
_RELAY: Final = "tests/integration/test_relay.py"
_SERVER: Final = "tests/unit/listeners/test_server_identity.py"
_DOUBTS: Final = "tests/unit/gateway/test_doubts.py"


def _without_part(part: str) -> Mutation:
    """The generation does not see this part of the identity."""
    return Mutation(
        f"generation: {part}",
        "listeners/generation.py",
        "return _digest(*astuple(self))[:_WHOLE] + self.place",
        f'other = Identity(*("" if n == "{part}" else getattr(self, n) for n in self.__slots__))\n'
        "        return _digest(*astuple(other))[:_WHOLE] + other.place",
        ("tests/unit/listeners/test_generation.py::test_whatever_changes_makes_another_generation",),
    )


def _unread(part: str, old: str, new: str, test: str) -> Mutation:
    """The database is not asked for this part of the identity."""
    return Mutation(f"generation: {part} as read", "listeners/generation.py", old, new, (test,))


_PARTS: Final = ("system", "timeline", "alive", "losses", "sources", "nonce", "redis")
_CHANGES: Final = f"{_IDENTITY}::TestTheIdentityOfADatabase"

CONVERGENCE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "version gate of apply",
        "listeners/scripts/apply.lua",
        "    if version > old_version then\n",
        "    if true then\n",
        (f"{_STORE}::TestApply",),
    ),
    Mutation(
        "version gate of merge",
        "listeners/scripts/merge.lua",
        "  if version > old_version then\n",
        "  if true then\n",
        (f"{_STORE}::TestLoading", "tests/integration/test_topic_store_convergence.py"),
    ),
    Mutation(
        "load token at each part",
        "listeners/scripts/merge.lua",
        " or meta[2] ~= ARGV[2] or meta[3] ~= 'L' then",
        " or meta[3] ~= 'L' then",
        (f"{_STORE}::TestLoading",),
    ),
    Mutation(
        "load token at the end",
        "listeners/scripts/ready.lua",
        " or meta[2] ~= ARGV[2] then return 'lost' end",
        " then return 'lost' end",
        (f"{_STORE}::TestLoading",),
    ),
    Mutation(
        "reign of a load",
        "listeners/scripts/merge.lua",
        "if not meta[1] or meta[1] ~= redis.call('HGET', KEYS[1], 'i') or",
        "if not meta[1] or",
        (f"{_STORE}::TestLoading",),
    ),
    Mutation(
        "changes kept while a topic is loading",
        "listeners/scripts/apply.lua",
        "  if not ready then\n    redis.call('HSET', hash, unpack(fields))\n    return\n  end\n",
        "  if not ready then return end\n",
        (f"{_STORE}::TestApply",),
    ),
    Mutation(
        "fold by log id",
        "listeners/folding.py",
        "enumerate(sorted(rows, key=_log_id), 1)",
        "enumerate(sorted(rows, key=lambda row: row.version or 0), 1)",
        (_FOLDING,),
    ),
    Mutation(
        "fold: an overtaken tombstone goes first",
        "listeners/folding.py",
        "                self._overtaken.setdefault(topic, []).append(held)\n",
        "",
        (_FOLDING,),
    ),
    Mutation(
        "tombstone rule: a later log id below its version voids the topic",
        "listeners/scripts/apply.lua",
        "    elseif version < old_version then\n",
        "    elseif false then\n",
        (f"{_STORE}::TestTombstones",),
    ),
    Mutation(
        "exact difference of two snapshots: what was in progress",
        "listeners/sql/change_log.sql",
        "        OR c.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))\n",
        "",
        ("tests/integration/test_change_log.py",),
    ),
    *map(_without_part, _PARTS),
    _unread(
        "losses",
        "(SELECT last_value::text || is_called::text FROM gateway.loss_seq) AS losses",
        "'' AS losses",
        _CHANGES,
    ),
    _unread("alive id", "(SELECT min(id) FROM gateway.alive) AS alive", "'' AS alive", _CHANGES),
    _unread("nonce", "(SELECT nonce FROM gateway.control) AS nonce", "'' AS nonce", _CHANGES),
    _unread(
        "database", "SELECT oid::text FROM pg_database WHERE", "SELECT '' FROM pg_database WHERE", _CHANGES
    ),
    _unread(
        "cluster",
        "(SELECT system_identifier::text FROM pg_control_system())",
        "''",
        f"{_CHANGES}::test_names_its_cluster_though_databases_are_numbered_alike",
    ),
    _unread(
        "timeline",
        "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline",
        "'' AS timeline",
        f"{_CHANGES}::test_tells_a_promoted_standby_from_its_primary",
    ),
    _unread("triggers", "t.oid, t.xmin, t.tgenabled", "''", _CHANGES),
    _unread("attached sources", "s.name, s.checksum, extract(epoch FROM s.attached_at)", "''", _CHANGES),
    Mutation(
        "generation: the counter that Redis remembers",
        "listeners/mandate.py",
        "    if position.counter < remembered:\n",
        "    if False:\n",
        (_RELAY,),
    ),
    Mutation(
        "generation: run id of Redis",
        "listeners/topic_store.py",
        "{server['run_id']},{server['master_replid']}",
        ",{server['master_replid']}",
        (_SERVER,),
    ),
    Mutation(
        "generation: replication id of Redis",
        "listeners/topic_store.py",
        "{server['run_id']},{server['master_replid']}",
        "{server['run_id']},",
        (_SERVER,),
    ),
    Mutation(
        "relay's term in Redis",
        "listeners/scripts/common.lua",
        "  if held[2] == term then return held[3] end\n",
        "  do return held[3] end\n",
        (f"{_STORE}::TestReign",),
    ),
    Mutation(
        "relay's term in Postgres",
        "listeners/change_log.py",
        ' WHERE term = coalesce($2, term) RETURNING counter",',
        ' WHERE term = coalesce($2, term) OR true RETURNING counter",',
        ("tests/integration/test_change_log.py",),
    ),
    Mutation(
        "a frozen holder of the lock is thrown out",
        "listeners/election.py",
        '"2500ms"',
        '"0"',
        ("tests/integration/test_election.py",),
    ),
    Mutation(
        "seqs compared after a reconnect",
        "gateway/hub.py",
        "        self.freshness.restored()\n        self._compare_now.set()\n",
        "        self.freshness.restored()\n",
        (_HUB,),
    ),
    Mutation(
        "a hole in the seqs",
        "gateway/topic_state.py",
        "        if message.seq > self.seq + 1:\n",
        "        if False:\n",
        (_HUB,),
    ),
    Mutation(
        "canary: a late one makes stale",
        "gateway/freshness.py",
        "            if overdue or (",
        "            if (",
        ("tests/unit/gateway/test_freshness.py",),
    ),
    Mutation(
        "canary: not before the whole of its batch is acknowledged",
        "listeners/reign.py",
        "                mark = await self._publisher.publish(page.rows) or mark\n",
        "                mark = await self._publisher.publish(page.rows) or mark\n"
        "                if mark is not None:\n"
        "                    await self._publisher.beat(mark)\n",
        (f"{_RELAY}::TestTheBeat",),
    ),
    Mutation(
        "canary: vouches for no Redis but the one that has acknowledged",
        "listeners/publisher.py",
        "        if await self._store.server_identity() != self._mandate.identity.redis:\n",
        "        if False:\n",
        ("tests/unit/listeners/test_publisher.py",),
    ),
    Mutation(
        "fresh only after a comparison",
        "gateway/freshness.py",
        "        elif not self.in_doubt and not overdue:\n",
        "        elif not overdue:\n",
        ("tests/unit/gateway/test_freshness.py",),
    ),
    Mutation(
        "subscribe first, then snapshot",
        "gateway/joining.py",
        "                topic.join(delivery)\n",
        "                pass\n",
        (_HUB,),
    ),
    Mutation(
        "a lost hash is told",
        "listeners/scripts/apply.lua",
        "redis.call('ZREM', index, name) == 1",
        "false",
        (f"{_STORE}::TestAKeyThatWasLost",),
    ),
    Mutation(
        "a comparison that began before the loss proves nothing",
        "gateway/freshness.py",
        "        if comparison == self.losses:\n",
        "        if True:\n",
        ("tests/unit/gateway/test_freshness.py",),
    ),
    Mutation(
        "fresh to nobody whose copy is being repaired",
        "gateway/hub.py",
        "            self.doubts.doubt_all()\n",
        "            pass\n",
        (_DOUBTS,),
    ),
    Mutation(
        "stale to those whose topic is not served",
        "gateway/hub.py",
        "self._tell_some(Transition.STALE, self.doubts.sweep(now, doubt=not stale))",
        "self.doubts.sweep(now, doubt=not stale)",
        (_DOUBTS,),
    ),
    Mutation(
        "no snapshot behind the position of a resume",
        "gateway/joining.py",
        "        if not ahead:\n            return True\n",
        "        return True\n",
        (_DOUBTS,),
    ),
    Mutation(
        "a load reads where the relay does",
        "listeners/placed_pool.py",
        "            if wanted and place != wanted:\n",
        "            if False:\n",
        ("tests/unit/listeners/test_placed_pool.py",),
    ),
    Mutation(
        "a load that waits for Postgres keeps its lease",
        "listeners/loader.py",
        "                await self._store.merge(name, epoch, ())\n",
        "                pass\n",
        ("tests/integration/test_loader.py::TestOthersWhoLoad",),
    ),
    Mutation(
        "a load whose backend is gone without a word",
        "listeners/pool.py",
        "if pid not in found}",
        "if False}",
        ("tests/integration/test_pool.py::TestWatching",),
    ),
    Mutation(
        "what was skipped and is committed later",
        "listeners/losses.py",
        "            if remaining == settled.running:\n",
        "            if True:\n",
        ("tests/unit/listeners/test_losses.py",),
    ),
    Mutation(
        "a half-open link of the reader",
        "listeners/link_watch.py",
        "        if before == self._suspicion:\n",
        "        if False:\n",
        ("tests/unit/listeners/test_link_watch.py",),
    ),
    Mutation(
        "a beat of a cluster counts once all nodes have brought it",
        "listeners/beacons.py",
        "        if len(self._heard) < self._count or",
        "        if",
        ("tests/unit/listeners/test_beacons.py",),
    ),
    Mutation(
        "an unread leaf of the log is not emptied",
        "listeners/retention.py",
        "        if await connection.fetchval(",
        "        if False and await connection.fetchval(",
        ("tests/integration/test_retention.py",),
    ),
    Mutation(
        "a relay that returns skips nothing",
        "listeners/mandate.py",
        "    if position.snapshot is None:\n",
        "    if True:\n",
        (f"{_RELAY}::TestGoingOn",),
    ),
    Mutation(
        "a generation that is known from a beat alone",
        "gateway/hub.py",
        "            if envelope.generation != self._generation:\n",
        "            if False:\n",
        (_HUB, _DOUBTS),
    ),
    Mutation(
        "where a resumption has led to counts as handed out",
        "gateway/joining.py",
        "        topic.handed_seq = max(topic.handed_seq, ready_seq)\n",
        "",
        (_DOUBTS,),
    ),
    Mutation(
        "what was opened over a lost link is opened again",
        "gateway/joining.py",
        "            if self._losses() != losses:\n",
        "            if False:\n",
        (_DOUBTS,),
    ),
    Mutation(
        "a log that was read before is of no use once the topic has gone on",
        "gateway/snapshots.py",
        "        if held.since + len(held.changes) < topic.seq:\n",
        "        if False:\n",
        ("tests/unit/gateway/test_serving.py::TestResuming",),
    ),
    Mutation(
        "nobody is served from memory while the bus may miss messages",
        "gateway/joining.py",
        "not self._feed.is_subscribed(topic.name)",
        "False",
        ("tests/unit/gateway/test_serving.py::TestAtOnce",),
    ),
    Mutation(
        "what is read at once with opening is behind what has come since",
        "gateway/snapshots.py",
        "or stored.seq < max(topic.seq, topic.handed_seq)",
        "or False",
        ("tests/unit/gateway/test_serving.py::TestEntering",),
    ),
    Mutation(
        "the public view is not made of less than what has come",
        "gateway/joining.py",
        "stored.epoch == epoch and stored.seq >= topic.seq:",
        "stored.epoch == epoch:",
        ("tests/unit/gateway/test_serving.py::TestEntering",),
    ),
)
