"""The load: wrk for a slot of time, idle connections beside it, and one checked request before anything is measured.

Read next: measure.py.
"""

import http.client
import json
import multiprocessing
import os
import subprocess
import time
from dataclasses import dataclass

from kit.client import Client
from kit.process import Failure, Server, Usage

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Slot:
    """What one proxy did in one slot."""

    requests: int
    bytes: int
    seconds: float
    p50_us: int
    p99_us: int
    usage: Usage
    failed: str  # empty, or which requests failed


def run(scenario, server, seconds):
    """A slot in which every request must succeed."""
    slot = attempt(scenario, server, seconds)
    if slot.failed:
        raise Failure(f"{server.name} fails in {scenario.name}: {slot.failed}")
    return slot


def attempt(scenario, server, seconds):
    """A slot in which requests may fail: the caller looks."""
    before = server.usage()
    # To connect costs wrk more than to accept costs the other side; one thread of it would be the limit.
    threads = "2" if scenario.close else "1"
    command = ["wrk", "--threads", threads, "--connections", str(scenario.connections), "--duration", f"{seconds}s",
               "--timeout", "30s", "--latency", "--script", f"{HERE}/wrk.lua"]
    if scenario.close:
        command += ["--header", "Connection: close"]
    environment = dict(os.environ, BENCH_UPLOAD_BYTES=str(scenario.upload_bytes))
    done = subprocess.run([*command, f"http://127.0.0.1:{server.port}{scenario.path}"], env=environment,
                          capture_output=True, text=True, timeout=seconds + 60, check=False)
    # The proxy has connections to close after wrk is gone; they are part of its bill.
    time.sleep(0.05)
    server.expect_alive(f"during {scenario.name}")
    used = server.usage().since(before)
    said = [line for line in done.stdout.splitlines() if line.startswith("BENCH ")]
    if done.returncode != 0 or not said:
        raise Failure(f"wrk failed against {server.name}: {done.stderr.strip() or done.stdout.strip()}")
    report = json.loads(said[0].removeprefix("BENCH "))
    failed = ", ".join(f"{count} {kind}" for kind, count in report["errors"].items() if count)
    server.answered += report["requests"]
    # wrk counts the bytes it reads only.
    moved = report["requests"] * scenario.upload_bytes or report["bytes"]
    # A slot may be too short for the end of a large answer, not for any of it.
    if moved == 0:
        failed = failed or "nothing was answered"
    return Slot(report["requests"], moved, report["us"] / 1e6, report["p50_us"], report["p99_us"], used, failed)


def check(scenario, server, origin):
    """One request, and its answer compared with what the origin is known to say, before any figure is taken."""
    def expect(right, what):
        if not right:
            raise Failure(f"{server.name} gives a wrong answer in {scenario.name}: {what}")

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    # As often as there are backends, and once more on a connection that has been used.
    for _ in range(len(origin.ports) + 1):
        headers = {"Connection": "close"} if scenario.close else {}
        body = b"x" * scenario.upload_bytes if scenario.upload_bytes else None
        begun = time.monotonic()
        try:
            connection.request("POST" if body else "GET", scenario.path, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{server.name} gives no answer in {scenario.name}: {error!r}") from error
        taken_ms = (time.monotonic() - begun) * 1000
        expect(taken_ms >= scenario.slow_ms, f"the slow origin was reached in {taken_ms:.0f} ms")
        expect(response.status == 200, f"status {response.status}")
        if scenario.upload_bytes:
            expect(int(content) > scenario.upload_bytes, f"the origin got {content!r} bytes")
        else:
            expect(content == origin.body_of(scenario.path), f"a body of {len(content)} bytes that is not the origin's")
        chunked = response.getheader("Transfer-Encoding", "").lower() == "chunked"
        expect(chunked == (scenario.path == "/chunked"), "chunked" if chunked else "not chunked")
        expect(response.will_close == scenario.close, "it closes" if response.will_close else "it keeps the connection")
        if scenario.path == "/100m":
            break
    connection.close()


class Idle:
    """Idle connections, held open by a process of their own: so many descriptors do not fit beside others."""

    def __init__(self, server: Server, count):
        self.count = count
        before = server.memory_bytes()
        self._ours, theirs = multiprocessing.Pipe()
        multiprocessing.Process(target=hold, args=(server.port, count, theirs), daemon=True).start()
        if failed := self._ours.recv():
            raise Failure(f"{server.name} does not take {count} idle connections: {failed}")
        time.sleep(0.2)
        self.bytes_each = (server.memory_bytes() - before) / count

    def end(self):
        """Closes them; how many of them the proxy had closed before."""
        self._ours.send("end")
        return self.count - self._ours.recv()


def hold(port, count, parent):
    """Opens the connections, each of which has one answer; says what failed, and at the end how many are still open."""
    held = []
    for _ in range(count):
        held.append(Client(port, timeout_s=10))
        answer = held[-1].get("/128")
        if answer.status != 200 or answer.error or held[-1].stream is None:
            return parent.send(f"connection {len(held)}: {answer.status} {answer.error or 'closed'}")
    parent.send("")
    parent.recv()
    parent.send(sum(client.is_open() for client in held))
