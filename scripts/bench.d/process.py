"""A server under measurement: started, looked at through /proc, stopped with all that it started.

The figures are of all its processes and threads together. Read next: peers.py.
"""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something that makes the figures worthless; the text says what."""


@dataclass
class Usage:
    cpu_ns: int
    switches: int

    def since(self, before):
        return Usage(self.cpu_ns - before.cpu_ns, self.switches - before.switches)


class Server:
    """One server: its process, and the processes that one started (nginx's workers)."""

    def __init__(self, name, command, port, directory, output=None):
        self.name, self.port, self.answered = name, port, 0
        self.errors_path = os.path.join(directory, f"{name.replace(' ', '-')}.{port}.err")
        with open(self.errors_path, "wb") as errors, open(output or os.devnull, "wb") as out:
            # A session of its own: the terminal's Ctrl-C reaches it through `stop` only, and `stop` reaches all of it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                            cwd=directory, start_new_session=True)
        _running.append(self)
        self._wait_until_it_listens()
        self.pids = [self.process.pid, *_descendants(self.process.pid)]

    def _wait_until_it_listens(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.expect_alive("at its start")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            raise Failure(f"{self.name} does not listen on port {self.port} after 10 s\n{self.errors()}")
        # nginx listens before it has forked its workers.
        time.sleep(0.2)

    def expect_alive(self, when):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended {when} with status {self.process.returncode}\n{self.errors()}")

    def errors(self):
        with open(self.errors_path, encoding="utf-8", errors="replace") as text:
            return text.read()[-2000:]

    def usage(self):
        """CPU time and context switches so far. Threads of these servers live as long as they do: sums never fall."""
        cpu_ns = switches = 0
        for pid in self.pids:
            exact_ns = 0
            for thread in os.listdir(f"/proc/{pid}/task"):
                exact_ns += int(_read(f"/proc/{pid}/task/{thread}/schedstat").split()[0])
                for line in _read(f"/proc/{pid}/task/{thread}/status").splitlines():
                    if "ctxt_switches" in line:
                        switches += int(line.split()[1])
            # Kernels without scheduler statistics say 0: then ticks, 10 ms each, have to do.
            cpu_ns += exact_ns or _ticks(pid) * TICK_NS
        return Usage(cpu_ns, switches)

    def memory_bytes(self, field="VmRSS"):
        """`VmRSS`: resident now; `VmHWM`: at its highest."""
        total = 0
        for pid in self.pids:
            for line in _read(f"/proc/{pid}/status").splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self, wait_s=5):
        """SIGTERM, so that logs and profiles are written; SIGKILL for the session when that is not heard."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(wait_s)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        if self in _running:
            _running.remove(self)


_running = []


def stop_all():
    for server in list(_running):
        server.stop(wait_s=0.2)


def _read(path):
    with open(path, encoding="utf-8", errors="replace") as text:
        return text.read()


def _ticks(pid):
    # The program's name, in brackets, may contain anything; the fields follow its last bracket.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _descendants(root):
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(_read(f"/proc/{entry}/stat").rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    found, frontier = [], {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found
