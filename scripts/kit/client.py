"""A client that keeps its connection, and says of each request what became of it. It knows no trailers and no 1xx."""

import socket
from dataclasses import dataclass, field


class Ended(OSError):
    """The other side closed the connection."""


WORDS = {"Ended": "closed", "ConnectionResetError": "reset", "ConnectionRefusedError": "refused", "TimeoutError": "timed out"}


@dataclass
class Answer:
    status: int = 0  # 0: there is none
    fields: dict = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    error: str = ""  # why the answer is not whole; empty when it is


class Client:
    """A connection; one that the other side closed is replaced with the next request. `first` begins each connection."""

    def __init__(self, port, first=b"", timeout_s=30, host=None):
        self.port, self.first, self.timeout_s = port, first, timeout_s
        self.host = host or f"127.0.0.1:{port}"
        self.stream, self.data = None, b""

    def get(self, target="/"):
        return self.request("GET", target)

    def request(self, method, target, body=None, **fields):
        head = f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\n"
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        head += "\r\n" if body is None else f"Content-Length: {len(body)}\r\n\r\n"
        answer = Answer()
        try:
            self.connect()
            self.stream.sendall(head.encode() + (body or b""))
        except OSError as error:
            answer.error = word(error)
        # What was refused in the middle of its body may have an answer all the same.
        if self.stream:
            self.read(answer)
        if answer.error or answer.fields.get("connection", "").lower() == "close":
            self.close()
        return answer

    def connect(self):
        if self.stream is None:
            self.stream = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout_s)
            self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.stream.sendall(self.first)
            self.data = b""

    def read(self, answer):
        try:
            first, *lines = self.take_line(b"\r\n\r\n").decode("latin-1").split("\r\n")
            answer.status = int(first[9:12])
            answer.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if answer.fields.get("transfer-encoding") == "chunked":
                while part := self.take(int(self.take_line(), 16) + 2)[:-2]:
                    answer.body += part
            else:
                answer.body = self.take(int(answer.fields.get("content-length", 0)))
            answer.error = ""
        except OSError as error:
            answer.error = answer.error or word(error)

    def take_line(self, end=b"\r\n"):
        while end not in self.data:
            self.receive()
        line, _, self.data = self.data.partition(end)
        return line

    def take(self, length):
        while len(self.data) < length:
            self.receive()
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def receive(self):
        part = self.stream.recv(65536)
        if not part:
            raise Ended
        self.data += part

    def is_open(self):
        """Whether an idle connection is still there."""
        self.stream.setblocking(False)
        try:
            return self.stream.recv(1) != b""
        except OSError as error:
            return isinstance(error, BlockingIOError)

    def close(self):
        if self.stream:
            self.stream.close()
        self.stream = None


def word(error):
    return WORDS.get(type(error).__name__, type(error).__name__)
