"""nginx with the publish/subscribe module nchan."""

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from string import Template
from typing import Final

from load.children import accepts, free_ports, running, started
from load.peers.peer import TOPIC, Poster, Serving, find_program
from load.sink import Visit

__all__ = ["Nchan", "modules_directory"]

_MODULE: Final = "ngx_nchan_module.so"
_CONFIGURATION: Final = Template("""
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid $directory/nginx.pid;
error_log stderr error;
load_module $module;
events { worker_connections 19000; }
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 127.0.0.1:$port backlog=4096;
        location = /subscribe {
            nchan_subscriber websocket;
            nchan_channel_id $topic;
            nchan_subscriber_first_message newest;
        }
        location = /publish {
            nchan_publisher;
            nchan_channel_id $topic;
        }
    }
}
""")


class Nchan:
    name: Final = "nginx + nchan"
    how: Final = "apt-get install nginx libnginx-mod-nchan"
    remark: Final = "one worker, and a master that does nothing; no access log"

    def installed(self) -> bool:
        return _module() is not None

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        program = find_program("nginx")
        assert program is not None
        (port,) = free_ports(1)
        configuration = _configure(directory, port)
        log = directory / "nginx.log"
        command = (program, "-p", directory, "-e", "stderr", "-c", configuration)
        async with running(command, log) as process:
            await started(process, log, lambda: accepts(port))
            with closing(Poster(port, "/publish", {"Content-Type": "application/json"})) as poster:
                visit = Visit("/subscribe", subprotocol=None)
                yield Serving(process.pid, port, visit, poster.post)


def _configure(directory: Path, port: int) -> Path:
    directory.chmod(0o755)  # under root, the worker runs as another user
    path = directory / "nginx.conf"
    values = {"directory": directory, "module": _module(), "port": port, "topic": TOPIC}
    path.write_text(_CONFIGURATION.substitute(values))
    return path


@cache
def _module() -> Path | None:
    program = find_program("nginx")
    if program is None:
        return None
    said = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    directory = modules_directory(said)
    path = directory / _MODULE if directory is not None else None
    return path if path is not None and path.exists() else None


def modules_directory(version: str) -> Path | None:
    """From what `nginx -V` prints."""
    found = re.search(r"--modules-path=(\S+)", version)
    return Path(found[1]) if found else None
