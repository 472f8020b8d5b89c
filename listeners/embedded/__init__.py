from listeners.embedded.directories import reachable_data_dir
from listeners.embedded.errors import EmbeddedError
from listeners.embedded.ports import free_port
from listeners.embedded.postgres import PostgresServer, embedded_postgres
from listeners.embedded.server import EmbeddedServer
from listeners.embedded.valkey import ValkeyServer, embedded_valkey

__all__ = [
    "EmbeddedError",
    "EmbeddedServer",
    "PostgresServer",
    "ValkeyServer",
    "embedded_postgres",
    "embedded_valkey",
    "free_port",
    "reachable_data_dir",
]
