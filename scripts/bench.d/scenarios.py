"""What is measured: one table of scenarios, each with the load and the proxies that take part.

The first proxy of a scenario that can run is what the others are divided by; the second is the same once more, under
the name `... again`: how far it is from 1 is the noise of the machine. Read next: load.py.
"""

from dataclasses import dataclass, replace

from peers import (HAPROXY, HAPROXY_SPLICE, METHODS, NGINX, NGINX_AGAIN, NGINX_LARGE, PEN, RONDO, Peer, of_many,
                   two_workers)

IDLE = 10_000
USUAL = (NGINX, NGINX_AGAIN, HAPROXY, PEN, RONDO)
BULK = (NGINX, NGINX_AGAIN, NGINX_LARGE, HAPROXY, HAPROXY_SPLICE, PEN, RONDO)
TCP = tuple(replace(peer, tcp=True) for peer in
            (replace(NGINX, name="nginx stream"), replace(NGINX, name="nginx stream again"), HAPROXY, PEN, RONDO))
TCP_BULK = (*TCP[:2], replace(NGINX_LARGE, name="nginx stream 64k", tcp=True), TCP[2], replace(HAPROXY_SPLICE, tcp=True),
            *TCP[3:])


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    peers: tuple[Peer, ...]
    path: str = "/128"
    connections: int = 64
    upload_bytes: int = 0  # the body of each request; 0 is a GET
    close: bool = False  # a connection for each request
    bulk: bool = False  # count bytes, not requests
    smoke: bool = False  # part of --smoke
    slow_ms: int = 0  # the origin takes its time


def idle_beside(peer):
    return replace(peer, idle=IDLE)


def logging(peer):
    return replace(peer, log=True)


def choosing(method):
    """What a choice costs among four backends and among a thousand."""
    proxies = [replace(peer, method=method) for peer in (NGINX, HAPROXY, RONDO)]
    peers = [choice for proxy in proxies for choice in (proxy, of_many(proxy))]
    title = f"{method} among 4 and among 1,000 backends, 64 connections"
    return Scenario(f"choose-{method}", title, tuple(peers))


SCENARIOS = (
    Scenario("keep-1", "keep-alive, 1 connection, 128-byte answers", USUAL, connections=1),
    Scenario("keep-8", "keep-alive, 8 connections, 128-byte answers", USUAL, connections=8),
    Scenario("keep-64", "keep-alive, 64 connections, 128-byte answers", USUAL, smoke=True),
    Scenario("keep-1000", "keep-alive, 1,000 connections, 128-byte answers", USUAL, connections=1000),
    Scenario("close-64", "one connection per request, 64 at once", USUAL, close=True, smoke=True),
    Scenario("16k", "16 KiB answers, 64 connections", BULK, path="/16k", bulk=True),
    Scenario("1m", "1 MiB answers, 16 connections", BULK, path="/1m", connections=16, bulk=True, smoke=True),
    Scenario("100m", "100 MiB answers, 4 connections", BULK, path="/100m", connections=4, bulk=True),
    Scenario("upload", "1 MiB uploads, 16 connections", BULK, path="/upload", connections=16, upload_bytes=1 << 20,
             bulk=True, smoke=True),
    Scenario("idle", "64 active connections beside 10,000 idle ones",
             (*map(idle_beside, (NGINX, NGINX_AGAIN, HAPROXY, RONDO)),
              replace(NGINX, name="nginx, none idle"), replace(HAPROXY, name="haproxy, none idle"),
              replace(RONDO, name="rondo, none idle")), smoke=True),
    Scenario("chunked", "16 KiB chunked answers, 64 connections", BULK, path="/chunked", smoke=True),
    Scenario("slow", "a backend that takes 100 ms, 1,000 connections", USUAL, path="/slow", connections=1000, slow_ms=100),
    Scenario("log", "access log on, to a file, 64 connections",
             tuple(map(logging, (NGINX, NGINX_AGAIN, replace(NGINX, name="nginx, log in blocks", buffered_log=True),
                                 HAPROXY, RONDO))), smoke=True),
    Scenario("workers-2", "two workers, 64 connections, 128-byte answers",
             (NGINX, NGINX_AGAIN, two_workers(NGINX), two_workers(HAPROXY), RONDO, two_workers(RONDO))),
    Scenario("tcp-64", "TCP mode: 64 connections, 128-byte answers", TCP, smoke=True),
    Scenario("tcp-close", "TCP mode: one connection per request, 64 at once", TCP, close=True),
    Scenario("tcp-1m", "TCP mode: 1 MiB answers, 16 connections", TCP_BULK, path="/1m", connections=16, bulk=True),
    *map(choosing, METHODS),
)
