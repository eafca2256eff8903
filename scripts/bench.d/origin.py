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

import socket

from kit.nginx import nginx
from kit.process import descriptors, folder, free_port

PORTS = 4
MANY = 1000  # backends of the scenarios about choosing: as many addresses of the loopback network
SMALL = ("rondo " * 22)[:128]
# Text that no server-side include is hidden in and that does not repeat in step with a proxy's buffer.
BLOCK = "".join(f"{n:07d} " for n in range(2048))
SIZES = {"/128": 128, "/16k": 16 << 10, "/1m": 1 << 20, "/100m": 100 << 20, "/chunked": 16 << 10, "/slow": 128}

MAIN = """
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {connections}; }}
"""
HTTP = """
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
    server {{
        {listen}
        root {www};
        location = /128 {{ return 200 "{small}"; }}

        # `return` would answer before the body is there. A mirror reads it first; then the static
        # handler refuses the method, and that is turned into the answer. $request_length counts the body.
        location = /upload {{ mirror /discard; error_page 404 405 =200 @uploaded; }}
        location @uploaded {{ return 200 "$request_length\\n"; }}
        location = /discard {{ internal; return 204; }}

        # Server-side includes drop the length, so the answer is chunked: one chunk for each buffer.
        location = /chunked {{ alias {www}/16k; ssi on; ssi_types *; sendfile off; output_buffers 1 8k; }}

        # 100 ms is how long it waits for a port whose queue is full; see `hold_blackhole`.
        location = /slow {{ proxy_pass http://127.0.0.1:{blackhole}; proxy_connect_timeout 100ms; error_page 504 =200 @slow; }}
        location @slow {{ return 200 "{small}"; }}
    }}
"""


class Origin:
    """The running origin: its ports, and what a right answer is."""

    def __init__(self):
        www = folder() / "www"
        www.mkdir()
        for path in ("/16k", "/1m", "/100m"):
            (www / path[1:]).write_text(BLOCK * (SIZES[path] // len(BLOCK)))
        self.ports = [free_port() for _ in range(PORTS)]
        self._blackhole, blackhole_port = hold_blackhole()
        port = free_port()
        self._many = [f"127.1.{n // 250}.{n % 250 + 1}:{port}" for n in range(MANY)]
        listen = " ".join(f"listen {address} backlog=4096;" for address in [*self.backends(), *self._many])
        main = MAIN.format(descriptors=descriptors(), connections=descriptors() - 100)
        http = HTTP.format(www=www, listen=listen, small=SMALL, blackhole=blackhole_port)
        self.server = nginx("origin", self.ports[0], main, http)

    def backends(self, many=False):
        """Where it listens: as four backends or as many."""
        return self._many if many else [f"127.0.0.1:{port}" for port in self.ports]

    @staticmethod
    def body_of(path):
        return SMALL.encode() if SIZES[path] == 128 else BLOCK.encode() * (SIZES[path] // len(BLOCK))


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
