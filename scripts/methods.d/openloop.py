#!/usr/bin/env python3
"""The load: GETs at random times that no answer delays, and for each its time from when it was due.

    scripts/methods.d/openloop.py PORT RATE SECONDS DEADLINE SEED

A request for which no connection is free opens one. What a request waits for in here, because this program was late, is in
its time; how late it was is printed too. Prints JSON: `begun` (CLOCK_MONOTONIC), and for each request when it was due (in
seconds after that), how long its answer took (ms), and its status: 0 when it had none in DEADLINE seconds or it broke off,
-1 when it was not the origin's.

Read next: lanes.py.
"""

import asyncio
import collections
import gc
import json
import math
import random
import re
import sys
import time

import cases

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CLOSE = re.compile(rb"(?i)\r\nconnection: *close")


class Request:
    """`due` and the time when the answer was whole, by CLOCK_MONOTONIC."""

    __slots__ = ("due", "head", "late_s", "done", "status", "connection")

    def __init__(self, due, port, work_us):
        self.due, self.done, self.status, self.connection, self.late_s = due, None, 0, None, 0
        self.head = b"GET /?work=%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (work_us, port)


class Connection(asyncio.Protocol):
    def __init__(self, load, request):
        self.load, self.request, self.data = load, request, b""

    def connection_made(self, transport):
        self.transport = transport
        self.send(self.request)

    def send(self, request):
        self.request, request.connection = request, self
        if request.done is None:
            self.transport.write(request.head)
        else:
            self.transport.abort()  # its time was over before it was connected

    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end or self.request is None:
            return
        length = LENGTH.search(head)
        if length and len(body) >= int(length[1]):
            status = int(head[9:12])
            self.finish(status if status != 200 or body == cases.ANSWER else -1)
            if CLOSE.search(head):
                self.transport.close()
            else:
                self.load.idle.append(self)

    def finish(self, status):
        if self.request.done is None:
            self.request.done, self.request.status = time.monotonic(), status
        self.request, self.data = None, b""

    def connection_lost(self, _error):
        if self.request is not None:
            self.finish(0)


class Load:
    def __init__(self, port, rate, seconds, deadline_s, seed):
        self.port, self.deadline_s, self.idle, self.tasks = port, deadline_s, [], set()
        chance = random.Random(seed)
        self.begun = time.monotonic() + 0.1
        self.requests, due = [], 0.0
        while (due := due + chance.expovariate(rate)) < seconds:
            work_us = 1000 * cases.P50_MS * math.exp(cases.SIGMA * chance.gauss(0, 1))
            self.requests.append(Request(self.begun + due, port, round(work_us)))
        self.coming = iter(self.requests)
        self.next = next(self.coming)
        self.unanswered = collections.deque()

    async def run(self):
        self.loop = asyncio.get_running_loop()
        self.loop.call_at(self.next.due, self.send_what_is_due)
        while self.next is not None or self.unanswered:
            await asyncio.sleep(0.05)
            self.give_up()

    def send_what_is_due(self):
        while self.next is not None and self.next.due <= (now := time.monotonic()):
            request, self.next = self.next, next(self.coming, None)
            request.late_s = now - request.due
            self.unanswered.append(request)
            self.send(request)
        if self.next is not None:
            self.loop.call_at(self.next.due, self.send_what_is_due)

    def send(self, request):
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection.send(request)
        task = self.loop.create_task(self.connect(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self, request):
        try:
            await self.loop.create_connection(lambda: Connection(self, request), "127.0.0.1", self.port)
        except OSError:
            request.done = request.done or time.monotonic()

    def give_up(self):
        """They were due in this order, so their time is over in this order."""
        now = time.monotonic()
        while self.unanswered and (self.unanswered[0].done or self.unanswered[0].due + self.deadline_s <= now):
            request = self.unanswered.popleft()
            if request.done is None:
                request.done = request.due + self.deadline_s
                if request.connection:
                    request.connection.transport.abort()

    def results(self):
        return {"begun": self.begun,
                "late_ms": [round(1000 * request.late_s, 2) for request in self.requests],
                "due_s": [round(request.due - self.begun, 4) for request in self.requests],
                "took_ms": [round(1000 * (request.done - request.due), 2) for request in self.requests],
                "status": [request.status for request in self.requests]}


async def run(load):
    # No pause of the collector's falls into a measurement.
    gc.disable()
    await load.run()
    print(json.dumps(load.results(), separators=(",", ":")))


if __name__ == "__main__":
    port, rate, seconds, deadline_s, seed = sys.argv[1:]
    asyncio.run(run(Load(int(port), float(rate), float(seconds), float(deadline_s), seed)))
