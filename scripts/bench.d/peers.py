"""The proxies that are compared, and how each is configured: as fairly as we know, and where in doubt in a peer's favour.

Equal for all: upstream keep-alive on, with room for every connection of the load; no limit on requests or life of a
connection that would make a peer reconnect; listen queues of 4096; the same number of threads that carry traffic; no
access log but where the scenario is about it; `Host` kept and `X-Forwarded-For` added. rondo accepts connections and
writes its log in threads of their own, which are in its bill: where connections are many its throughput is not that of
one core, its CPU time is. It also adds four more fields (X-Forwarded-Proto, X-Forwarded-Host, Via and X-Request-Id), three
of which it cannot be told not to. Pen relays bytes and reads none of them: it is the limit, not a peer.

Read next: scenarios.py.
"""

from dataclasses import dataclass, replace

import machine
from kit.caddy import caddy
from kit.nginx import nginx
from kit.process import Server, descriptors, free_port, fresh_path, write
from kit.rondo import Rondo

KEPT = 1100  # connections to the origin each proxy may keep: more than any load has at once


# A balancing method in each one's words.
METHODS = {
    "round_robin": {"nginx": "", "haproxy": "roundrobin", "caddy": "round_robin"},
    "least_connections": {"nginx": "least_conn;", "haproxy": "leastconn", "caddy": "least_conn"},
    "random_two": {"nginx": "random two least_conn;", "haproxy": "random(2)", "caddy": "random_choose 2"},
    # The others have nothing like it: this is the nearest.
    "fastest": {"nginx": "least_conn;", "haproxy": "leastconn", "caddy": "least_conn"},
    "source_hash": {"nginx": "hash $remote_addr consistent;", "haproxy": "source\n    hash-type consistent", "caddy": "ip_hash"},
}


class Unsupported(Exception):
    """This proxy cannot take part in the scenario; the text says why."""


@dataclass(frozen=True)
class Peer:
    """One row of a table. `name` is its label; the rest is how it runs."""

    name: str
    kind: str
    workers: int = 1
    large_buffers: bool = False  # nginx: 64 KiB buffers, nothing through temporary files
    buffered_log: bool = False  # nginx: access lines written in blocks
    splice: bool = False  # haproxy: bodies through a pipe in the kernel
    tcp: bool = False  # relay bytes
    log: bool = False  # access log to a file
    idle: int = 0  # connections that do nothing, beside the load
    many: bool = False  # a thousand backends instead of four
    method: str = "round_robin"  # how it chooses a backend
    alone: bool = False  # the method by itself: no checks, no second try, no backend left out for its failures

    def start(self, program, origin, wrap=()):
        log_path = fresh_path(f"{self.kind}.log") if self.log else None
        server = STARTS[self.kind](self, program, origin, log_path, wrap)
        server.log_path = log_path
        return server


def room(peer):
    """Client connections at once that it is configured for. Some pay for each of them in advance, so not more than needed."""
    return 2000 + peer.idle


def start_nginx(peer, _program, origin, log_path, _wrap):
    port = free_port()
    log = "off" if not log_path else f"{log_path} combined" + (" buffer=64k flush=100ms" if peer.buffered_log else "")
    servers = METHODS[peer.method]["nginx"] + " ".join(f"server {a}{' max_fails=0' if peer.alone else ''};" for a in origin.backends(peer.many))
    # Two workers share one port best with a queue each.
    listen = f"listen 127.0.0.1:{port} backlog=4096{' reuseport' if peer.workers > 1 else ''};"
    large = """
        proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
        proxy_max_temp_file_size 0; proxy_request_buffering off; client_body_buffer_size 64k;"""
    http = f"""
    access_log {log};
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    keepalive_time 24h;
    client_header_timeout 1h;
    client_max_body_size 0;
    upstream origin {{ {servers} keepalive {KEPT}; keepalive_requests 1000000000; keepalive_timeout 1h; keepalive_time 24h; }}
    server {{
        {listen}
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        {"proxy_next_upstream off;" if peer.alone else ""}
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        {large if peer.large_buffers else ""}
        location / {{ proxy_pass http://origin; }}
    }}"""
    buffers = "proxy_buffer_size 64k;" if peer.large_buffers else ""
    stream = f"stream {{ upstream origin {{ {servers} }} server {{ {listen} {buffers} proxy_pass origin; proxy_timeout 1h; }} }}"
    module = ""
    if peer.tcp:
        path = machine.nginx_stream_module()
        if not path:
            raise Unsupported("nginx has no stream module here (Debian: libnginx-mod-stream)")
        module = f"load_module {path};"
    main = f"""{module}
worker_processes {peer.workers};
worker_rlimit_nofile {descriptors()};
events {{ worker_connections {2 * room(peer)}; }}
{stream if peer.tcp else ""}"""
    return nginx(peer.name, port, main, None if peer.tcp else http)


def start_haproxy(peer, _program, origin, log_path, _wrap):
    port = free_port()
    servers = "\n    ".join(f"server origin{n} {address} pool-max-conn {KEPT} pool-purge-delay 1h"
                            for n, address in enumerate(origin.backends(peer.many)))
    http = "mode http\n    http-reuse always\n    option forwardfor" + ("\n    option httplog" if log_path else "")
    splice = "\n    option splice-request\n    option splice-response" if peer.splice else ""
    # It counts two descriptors for each connection, refuses to start when that is over the limit, and drops idle
    # connections to the origin from a quarter of it on: here the idle clients would make it reconnect.
    configuration = f"""global
    maxconn {room(peer)}
    no strict-limits
    tune.pool-high-fd-ratio 95
    tune.pool-low-fd-ratio 90
    nbthread {peer.workers}
    {"log stdout format raw local0 info" if log_path else ""}
defaults
    {"log global" if log_path else ""}
    {"mode tcp" if peer.tcp else http}{splice}
    {"retries 0" if peer.alone else ""}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    balance {METHODS[peer.method]["haproxy"]}
listen proxy
    bind 127.0.0.1:{port}
    backlog 4096
    {servers}
"""
    return Server(peer.name, ["haproxy", "-db", "-f", str(write("haproxy.cfg", configuration))], port, log_path)


def start_pen(peer, _program, origin, _log_path, _wrap):
    port = free_port()
    # -r: round robin without remembering clients.
    servers = origin.backends()
    return Server(peer.name, ["pen", "-f", "-r", "-x", "2000", "-q", "4096", f"127.0.0.1:{port}", *servers], port)


def start_rondo(peer, program, origin, log_path, wrap):
    proxy = {"workers": peer.workers, "max_connections": room(peer), "access_log": peer.log, "mode": "tcp" if peer.tcp else "http"}
    backends = [{"url": f"http://{address}/"} for address in origin.backends(peer.many)]
    balance = {"method": peer.method, **({"tries": 1} if peer.alone else {})}
    checks = {"health_check": {"kind": "none"}} if peer.alone else {}
    return Rondo(backends, program, peer.name, wrap, log_path, proxy=proxy, balance=balance,
                 timeouts={"client_idle": "1h", "backend_idle": "1h"}, limits={"idle_backend_connections": KEPT}, **checks)


def start_caddy(peer, _program, origin, _log_path, _wrap):
    port = free_port()
    # It checks nothing and tries once, if it is not told otherwise.
    return caddy(peer.name, port, f"""reverse_proxy {" ".join(origin.backends(peer.many))} {{
        lb_policy {METHODS[peer.method]["caddy"]}
        transport http {{
            dial_timeout 5s
            keepalive 1h
            keepalive_idle_conns_per_host {KEPT}
        }}
    }}""")


STARTS = {"nginx": start_nginx, "haproxy": start_haproxy, "pen": start_pen, "rondo": start_rondo, "caddy": start_caddy}

NGINX = Peer("nginx", "nginx")
NGINX_AGAIN = Peer("nginx again", "nginx")
NGINX_LARGE = Peer("nginx 64k", "nginx", large_buffers=True)
HAPROXY = Peer("haproxy", "haproxy")
HAPROXY_SPLICE = Peer("haproxy splice", "haproxy", splice=True)
PEN = Peer("pen", "pen")
RONDO = Peer("rondo", "rondo")


def two_workers(peer):
    return replace(peer, name=f"{peer.name} x2", workers=2)


def of_many(peer):
    return replace(peer, name=f"{peer.name}, 1000", many=True)
