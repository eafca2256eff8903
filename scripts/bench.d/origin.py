"""The origin: one nginx worker on several ports, which answers as cheaply as a real server can.

| path | answer |
|---|---|
| /128 | 128 bytes |
| /16k /1m /100m | a file of that size, with its length |
| /chunked | 16 KiB in two chunks of 8 KiB, written one after the other |
| /upload | reads the whole body first, then says how many bytes the request had |
| /slow | 128 bytes after 100 ms |

Read next: peers.py.
"""

import os
import socket

import machine
from process import Server

PORTS = 4
SMALL = ("rondo " * 22)[:128]
# Text that no server-side include is hidden in and that does not repeat in step with anyone's buffer.
BLOCK = "".join(f"{n:07d} " for n in range(2048))
SIZES = {"/128": 128, "/16k": 16 << 10, "/1m": 1 << 20, "/100m": 100 << 20, "/chunked": 16 << 10, "/slow": 128}

CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {directory}/origin.pid;
error_log stderr crit;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    default_type text/plain;
    sendfile on;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    keepalive_time 24h;
    client_header_timeout 1h;
    client_max_body_size 0;
    # A body of 1 MiB stays in memory; no upload of the benchmark reaches a disk here.
    client_body_buffer_size 2m;
    client_body_temp_path {directory}/origin-body;
    proxy_temp_path {directory}/origin-proxy;
    fastcgi_temp_path {directory}/origin-fastcgi;
    uwsgi_temp_path {directory}/origin-uwsgi;
    scgi_temp_path {directory}/origin-scgi;
    server {{
        {listen}
        root {directory}/www;
        location = /128 {{ return 200 "{small}"; }}

        # `return` would answer before the body is there. A mirror reads it first; then the static
        # handler refuses the method, and that is turned into the answer. $request_length counts the body.
        location = /upload {{ mirror /discard; error_page 404 405 =200 @uploaded; }}
        location @uploaded {{ return 200 "$request_length\\n"; }}
        location = /discard {{ internal; return 204; }}

        # Server-side includes drop the length, so the answer is chunked: one chunk for each buffer.
        location = /chunked {{ alias {directory}/www/16k; ssi on; ssi_types *; sendfile off; output_buffers 1 8k; }}

        # 100 ms is how long it waits for a port whose queue is full; see `hold_blackhole`.
        location = /slow {{ proxy_pass http://127.0.0.1:{blackhole}; proxy_connect_timeout 100ms; error_page 504 =200 @slow; }}
        location @slow {{ return 200 "{small}"; }}
    }}
}}
"""


class Origin:
    """The running origin: its ports, and what a right answer is."""

    def __init__(self, directory):
        os.makedirs(f"{directory}/www", exist_ok=True)
        for path in ("/16k", "/1m", "/100m"):
            with open(f"{directory}/www{path}", "w", encoding="ascii") as file:
                for _ in range(SIZES[path] // len(BLOCK)):
                    file.write(BLOCK)
        self.ports = [machine.free_port() for _ in range(PORTS)]
        self._blackhole, blackhole_port = hold_blackhole()
        descriptors = machine.descriptors()
        configuration = CONFIGURATION.format(
            directory=directory,
            user=nginx_user(),
            descriptors=descriptors,
            connections=descriptors - 100,
            listen=" ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in self.ports),
            small=SMALL,
            blackhole=blackhole_port,
        )
        path = f"{directory}/origin.conf"
        with open(path, "w", encoding="ascii") as file:
            file.write(configuration)
        self.server = Server("origin", ["nginx", "-p", directory, "-e", "stderr", "-c", path], self.ports[0], directory)

    @staticmethod
    def body_of(path):
        return SMALL.encode() if SIZES[path] == 128 else BLOCK.encode() * (SIZES[path] // len(BLOCK))


def nginx_user():
    """As root the workers would change to a user who may not read the temporary directory; a user cannot change at all."""
    return "user root;" if os.geteuid() == 0 else ""


def hold_blackhole():
    """A port that neither accepts nor refuses: its queue of one is full, so the kernel drops what else comes."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held = [listener]
    for _ in range(2):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        held.append(filler)
    return held, listener.getsockname()[1]
