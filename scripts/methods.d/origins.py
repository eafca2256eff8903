#!/usr/bin/env python3
"""The four origins of one proxy, in one process: each sleeps for the work that a request brings, a few requests at a time.

    scripts/methods.d/origins.py KIND SLOW_FROM SLOW_UNTIL PORT...

KIND is what is wrong with the last: `slow` and `slow for a while` (from and until when, in seconds after the first
request), `slow to connect`, `failing`, `nothing`. At SIGTERM it prints when each origin received its requests, by
CLOCK_MONOTONIC. What is slow in connecting is real: the listener is left alone, its queue is full, the kernel drops what
else comes, and the proxy's kernel repeats it after a second.

Read next: openloop.py.
"""

import asyncio
import collections
import gc
import json
import signal
import socket
import sys
import time

import cases

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(cases.ANSWER), cases.ANSWER)
CLOSING = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 7\r\n\r\nfailed\n"


class Clock:
    """It begins with the first request to any of them, and what depends on the time with it."""

    def __init__(self):
        self.begun, self.waiting = None, []

    def begin(self):
        self.begun = time.monotonic()
        for call in self.waiting:
            call()


class Origin:
    """One of them, its places and its queue."""

    def __init__(self, clock, kind="nothing", slow=None):
        self.clock, self.kind, self.slow = clock, kind, slow or (0, 0)
        self.received, self.waiting, self.free = [], collections.deque(), cases.AT_ONCE

    async def listen(self, port):
        loop = asyncio.get_running_loop()
        if self.kind != "slow to connect":
            await loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=4096)
            return
        self.listener = socket.create_server(("127.0.0.1", port), backlog=cases.BACKLOG)
        self.listener.setblocking(False)
        loop.add_reader(self.listener, self.accept)
        self.clock.waiting.append(self.close)

    def close(self):
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener)
        loop.call_later(cases.CLOSED_S, self.open)

    def open(self):
        loop = asyncio.get_running_loop()
        loop.add_reader(self.listener, self.accept)
        loop.call_later(cases.CLOSED_S, self.close)

    def accept(self):
        loop = asyncio.get_running_loop()
        try:
            stream, _ = self.listener.accept()
        except BlockingIOError:
            return
        stream.setblocking(False)
        self.task = loop.create_task(loop.connect_accepted_socket(lambda: Connection(self), stream))

    def receive(self, connection, work_s):
        if self.clock.begun is None:
            self.clock.begin()
        self.received.append(time.monotonic())
        if self.kind == "failing":
            connection.transport.write(FAILED)
        elif self.free:
            self.free -= 1
            self.work(connection, work_s)
        else:
            self.waiting.append((connection, work_s))

    def work(self, connection, work_s):
        begin, end = self.slow
        if begin <= time.monotonic() - self.clock.begun < end:
            work_s *= cases.SLOW
        asyncio.get_running_loop().call_later(work_s, self.finish, connection)

    def finish(self, connection):
        if self.kind == "slow to connect":
            connection.transport.write(CLOSING)
            connection.transport.close()
        else:
            connection.transport.write(OK)
        while self.waiting:
            connection, work_s = self.waiting.popleft()
            # The client of one that waited may be gone.
            if not connection.transport.is_closing():
                return self.work(connection, work_s)
        self.free += 1


class Connection(asyncio.Protocol):
    """One GET after the other, each with its work in microseconds: `/?work=1234`."""

    def __init__(self, origin):
        self.origin, self.data = origin, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        if self.data.endswith(b"\r\n\r\n"):
            target = self.data.split(b" ", 2)[1]
            self.data = b""
            self.origin.receive(self, int(target.partition(b"work=")[2]) / 1e6)


async def run(kind, slow, ports):
    clock = Clock()
    origins = [*(Origin(clock) for _ in ports[1:]), Origin(clock, kind, slow)]
    for origin, port in zip(origins, ports):
        await origin.listen(port)
    # No pause of the collector's falls into a measurement.
    gc.disable()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    print(json.dumps([[round(at, 4) for at in origin.received] for origin in origins]))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], tuple(map(float, sys.argv[2:4])), list(map(int, sys.argv[4:]))))
