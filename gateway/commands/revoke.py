import argparse
import time
from typing import Final

from gateway.auth.revocations import RevocationKind, digest
from gateway.commands import run_async
from gateway.commands.token import seconds_of
from gateway.config import Settings, load_settings
from gateway.errors import CommandFailed
from listeners.credential_store import CredentialStore
from listeners.keys import Keys
from listeners.redis_client import connect_redis
from protocol.errors import ProtocolError

__all__ = ["configure", "run"]

_DEFAULT: Final = "90d"


def configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--jti", metavar="J", help="the one token with this id (claim `jti`)")
    what.add_argument("--subject", metavar="S", help="all tokens of this subject that were issued until now")
    parser.add_argument(
        "--for", metavar="90d", dest="kept", default=_DEFAULT, help="as long as such tokens may be good (90d)"
    )


def run(options: argparse.Namespace) -> int:
    settings = load_settings()
    kept_s = seconds_of(options.kept, option="--for")
    kind = RevocationKind.SUBJECT if options.jti is None else RevocationKind.TOKEN
    return run_async(_revoke(settings, kind, options.subject or options.jti, kept_s))


async def _revoke(settings: Settings, kind: RevocationKind, name: str, kept_s: int) -> int:
    client = connect_redis(settings.require_redis_url(), timeout_s=settings.probe_timeout_ms / 1000)
    now = time.time()
    try:
        store = CredentialStore(client, Keys(settings.redis_prefix))
        await store.revoke(kind, digest(name), issued_until=now, ends_at=now + kept_s, now_ms=int(now * 1000))
    except ProtocolError as error:
        raise CommandFailed(f"GATEWAY_REDIS_URL: {error.__cause__ or error.message}") from error
    finally:
        await client.aclose()
    print("revoked: connections with such a token are closed (4401), and nobody comes in with one")
    return 0
