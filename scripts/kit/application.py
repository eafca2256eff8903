#!/usr/bin/env python3
"""A small HTTP/1.1 server as an origin: it names itself, waits, counts, and dies on request.

    scripts/kit/application.py PORT [NAME]

| request | answer |
|---|---|
| any | 200 with the origin's name and a line end; every answer has the name in `X-Origin` too |
| `/echo` | method, target, length and CRC-32 of the body instead |
| `?size=BYTES` | so many times `x` instead |
| `?wait=MS` | after so many milliseconds |
| `/tunnel` | 101, then every byte back |

A body is read to its end before the answer. SIGTERM stops it as well-made applications stop: the listener and the idle
connections close at once, what has begun is answered, and the process ends. Read next: origin.py.
"""

import argparse
import asyncio
import contextlib
import mmap
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import zlib

BACKLOG = 4096
PART = b"x" * (1 << 16)
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
REQUEST_ID = re.compile(rb"(?i)\r\nx-request-id: *(\S+)")
WAIT, SIZE = re.compile(rb"[?&]wait=(\d+)"), re.compile(rb"[?&]size=(\d+)")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Application:
    """What the connections of one process share."""

    def __init__(self, options):
        self.name, self.wait_ms, self.dies = options.name.encode(), options.wait, options.dies
        self.stopping, self.connections = False, set()
        self.record = os.open(options.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if options.record else None
        self.counter = memoryview(bytearray(8))
        if options.counter:
            with open(options.counter, "r+b") as file:
                self.counter = mmap.mmap(file.fileno(), 8)

    async def run(self, port):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        await stop.wait()
        self.stopping = True
        # What the kernel has accepted is a client's connection already.
        with contextlib.suppress(BlockingIOError):
            while True:
                await loop.connect_accepted_socket(lambda: Connection(self), listener.accept()[0])
        server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections:
            await asyncio.sleep(0.002)

    def count(self):
        struct.pack_into("q", self.counter, 0, struct.unpack_from("q", self.counter)[0] + 1)

    def note(self, head):
        if self.record is not None and (found := REQUEST_ID.search(head)):
            os.write(self.record, found[1] + b"\n")


class Connection(asyncio.Protocol):
    """One request after the other; `head` is that of the one in work."""

    def __init__(self, application):
        self.application, self.buffer, self.head = application, b"", None
        self.body_left = self.body_length = self.checksum = self.unsent = 0
        self.waits = self.tunnels = self.dies = False
        self.writable = True

    def connection_made(self, transport):
        self.transport = transport
        self.application.connections.add(self)

    def connection_lost(self, _error):
        self.application.connections.discard(self)

    def close_if_idle(self):
        # Python takes long from one look at its sockets to the next: what came meanwhile is not idle.
        stream = self.transport.get_extra_info("socket")
        if self.head is None and not self.buffer and not select.select([stream], [], [], 0)[0]:
            stream.shutdown(socket.SHUT_RDWR)
            self.transport.close()

    def data_received(self, data):
        if self.tunnels:
            self.transport.write(data)
            return
        self.buffer += data
        self.advance()

    def advance(self):
        while not (self.waits or self.unsent or self.tunnels or self.transport.is_closing()):
            if self.head is None:
                head, end, rest = self.buffer.partition(b"\r\n\r\n")
                if not end:
                    return
                self.begin(head, rest)
            if self.body_left:
                part = self.buffer[: self.body_left]
                self.buffer = self.buffer[len(part) :]
                self.body_left -= len(part)
                self.checksum = zlib.crc32(part, self.checksum)
            if self.body_left:
                return
            self.answer()

    def begin(self, head, rest):
        self.head, self.buffer, self.checksum = head, rest, 0
        length = LENGTH.search(head)
        self.body_left = self.body_length = int(length[1]) if length else 0
        if head.startswith(b"POST"):
            self.application.note(head)
            self.dies = random.random() < self.application.dies
            if self.dies and random.random() < 0.5:
                os._exit(1)

    def answer(self):
        method, target, _ = self.head.split(b" ", 2)
        if target.startswith(b"/tunnel"):
            self.tunnels = True
            self.transport.write(SWITCH + self.buffer)
            return
        wait = WAIT.search(target)
        wait_ms = int(wait[1]) if wait else self.application.wait_ms
        if wait_ms:
            self.waits = True
            asyncio.get_running_loop().call_later(wait_ms / 1000, self.answer_late, method, target)
        else:
            self.send(method, target)

    def answer_late(self, method, target):
        self.waits = False
        self.send(method, target)
        self.advance()

    def send(self, method, target):
        name = self.application.name
        size = SIZE.search(target)
        if target.startswith(b"/echo"):
            body = b"%s %s %d %08x\n" % (method, target, self.body_length, self.checksum)
        else:
            body = b"" if size else name + b"\n"
        close = b"Connection: close\r\n" if self.application.stopping else b""
        length = int(size[1]) if size else len(body)
        answer = b"HTTP/1.1 200 OK\r\nX-Origin: %s\r\n%sContent-Length: %d\r\n\r\n%s" % (name, close, length, body)
        self.application.count()
        if self.dies:
            # Nothing at all, a part of the head, a part of the body, or everything.
            self.transport.write(answer[: random.choice([0, 10, len(answer) - 2, len(answer)])])
            os._exit(1)
        self.unsent = length - len(body)
        first = PART[: self.unsent]
        self.unsent -= len(first)
        self.transport.write(answer + first)
        self.send_rest()

    def send_rest(self):
        # In parts that leave the loop free for quick requests in between.
        while self.unsent and self.writable:
            part = PART[: self.unsent]
            self.unsent -= len(part)
            self.transport.write(part)
        if not self.unsent:
            self.head = None
            if self.application.stopping:
                self.transport.close()

    def pause_writing(self):
        self.writable = False

    def resume_writing(self):
        self.writable = True
        if self.unsent:
            self.send_rest()
            self.advance()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, metavar="PORT")
    parser.add_argument("name", nargs="?", default="origin", metavar="NAME")
    parser.add_argument("--wait", type=int, default=0, metavar="MS", help="that each answer takes")
    parser.add_argument("--record", metavar="FILE", help="append the X-Request-Id of each POST as soon as its head is there")
    parser.add_argument("--dies", type=float, default=0, metavar="SHARE", help="of the POSTs end the process, anywhere in their answer")
    parser.add_argument("--counter", metavar="FILE", help="eight bytes in which answers are counted")
    options = parser.parse_args()
    asyncio.run(Application(options).run(options.port))


if __name__ == "__main__":
    main()
