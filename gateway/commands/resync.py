import argparse

from gateway.commands import run_async
from gateway.config import Settings, load_settings
from gateway.errors import CommandFailed, SettingsError
from listeners.generation import renew_nonce
from listeners.keys import Keys
from listeners.postgres import classified, connected
from listeners.redis_client import connect_redis, is_cluster_url
from listeners.topic_store import TopicStore
from protocol.errors import ProtocolError
from protocol.topics import Topic, parse_topic

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topic", metavar="TOPIC", nargs="?", help="only this one, e.g. product:A; else all of them"
    )


def run(options: argparse.Namespace) -> int:
    settings = load_settings()
    if options.topic is None:
        return run_async(_resync_all(settings.require_listener_url()))
    try:
        topic = parse_topic(options.topic)
    except ProtocolError as error:
        raise SettingsError(f"TOPIC={options.topic[:80]!r}: {error.message}") from error
    return run_async(_resync_one(settings, topic))


async def _resync_all(url: str) -> int:
    async with connected(url, purpose="resync") as connection:
        with classified(url):
            await renew_nonce(connection)
    print("a new generation begins with the relay's next look: every topic is loaded again")
    return 0


async def _resync_one(settings: Settings, topic: Topic) -> int:
    url = settings.require_redis_url()
    client = connect_redis(url, timeout_s=settings.probe_timeout_ms / 1000)
    try:
        store = TopicStore(client, Keys(settings.redis_prefix), cluster=is_cluster_url(url))
        reign = await store.reign()
        if reign is None:
            raise CommandFailed("no relay is active, so no topic is loaded; start `serve` or `relay`")
        await store.void([str(topic)], generation=reign.generation, term=reign.term)
    finally:
        await client.aclose()
    print(f"{topic} is void: whoever watches it gets a new snapshot")
    return 0
