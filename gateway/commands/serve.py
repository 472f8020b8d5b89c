import argparse
import socket
import sys
from collections.abc import Sequence

from gateway.certificate import load_certificate, read_certificate
from gateway.commands import hangup_signal, run_async, stop_signal
from gateway.config import Settings, load_settings
from gateway.edge_settings import edge_settings
from gateway.garbage import keep_garbage_small
from gateway.logs import configure_logging
from gateway.sockets import bind_socket

__all__ = ["configure", "run"]

# TCP gives up on a silent peer this long after we would have closed it for slowness, with a reason.
_USER_TIMEOUT_GRACE_S = 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", metavar="HOST:PORT", help="where clients connect (0.0.0.0:8080)")
    parser.add_argument("--ops-listen", metavar="HOST:PORT", help="health and metrics (127.0.0.1:8081)")
    parser.add_argument("--workers", metavar="N", help="processes that share the port (1)")
    parser.add_argument(
        "--relay", metavar="auto|off", help="whether to stand for election as the relay (auto)"
    )
    # How a parent calls its workers; not for people.
    parser.add_argument("--worker", metavar="LINK", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    overrides = {name: getattr(options, name) for name in ("listen", "ops_listen", "workers", "relay")}
    settings = load_settings(overrides)
    settings.require_database_url()
    settings.require_redis_url()
    edge_settings(settings)
    configure_logging(settings.log_level, settings.log_format)
    if options.worker is not None:
        from gateway.worker_link import WorkerLink, run_worker

        keep_garbage_small()
        return run_async(run_worker(settings, WorkerLink.parse(options.worker)))
    read_certificate(settings)  # what is wrong with it is told before anything else is begun
    clients, ops = _bind(settings)
    if settings.workers > 1:
        from gateway.workers import supervise

        return run_async(supervise(settings, clients, ops, _worker_command(overrides)))
    return run_async(_serve(settings, clients, ops))


def _bind(settings: Settings) -> tuple[socket.socket, socket.socket]:
    user_timeout_ms = int((settings.slow_client_s + _USER_TIMEOUT_GRACE_S) * 1000)
    clients = bind_socket(settings.listen, setting="GATEWAY_LISTEN", user_timeout_ms=user_timeout_ms)
    try:
        return clients, bind_socket(settings.ops_listen, setting="GATEWAY_OPS_LISTEN")
    except BaseException:
        clients.close()
        raise


async def _serve(settings: Settings, clients: socket.socket, ops: socket.socket) -> int:
    from gateway.app import serve

    keep_garbage_small()
    certificate = None
    if settings.tls_certificate is not None:
        certificate = load_certificate(settings, hangup_signal())
    await serve(settings, clients=clients, ops=ops, stop=stop_signal(), certificate=certificate)
    return 0


def _worker_command(overrides: dict[str, str | None]) -> Sequence[str]:
    """This command line again: the same interpreter, the same options."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in overrides.items() if value is not None]
    return [sys.executable, "-m", "gateway", "serve", *given]
