"""A server: started, looked at through /proc, stopped with all that it started. And the session in which servers run.

Figures are of all of a server's processes and threads together.
"""

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something that makes all that follows worthless; the text says what."""


@dataclass
class Usage:
    cpu_ns: int
    switches: int

    def since(self, before):
        return Usage(self.cpu_ns - before.cpu_ns, self.switches - before.switches)


class Server:
    """One server: its process, and the processes that one started (nginx's workers)."""

    def __init__(self, name, command, port, output=None, settles_s=0.0, waits=True):
        self.name, self.port, self.answered = name, port, 0
        self.errors_path = fresh_path(f"{name.replace(' ', '-')}.err")
        with open(self.errors_path, "wb") as errors, open(output or os.devnull, "wb") as out:
            # A session of its own: the terminal's Ctrl-C reaches it through `stop` only, and `stop` reaches all of it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                            cwd=folder(), start_new_session=True)
        _running.append(self)
        self.pids = [self.process.pid]
        if waits:
            self._wait_until_ready(settles_s)

    def _wait_until_ready(self, settles_s):
        deadline = time.monotonic() + 10
        try:
            while not self.is_ready():
                self.expect_alive("at its start")
                if time.monotonic() > deadline:
                    raise Failure(f"{self.name} is not ready after 10 s\n{self.errors()}")
                time.sleep(0.005)
        except Failure:
            Server.stop(self)
            raise
        time.sleep(settles_s)
        self.pids += _descendants(self.process.pid)

    def is_ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

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

    def threads(self):
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids)

    def stop(self, first=signal.SIGTERM, wait_s=5):
        """SIGTERM, so that logs and profiles are written; SIGKILL for the session when that is not heard."""
        if self.process.poll() is None:
            self.process.send_signal(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self in _running:
            _running.remove(self)


_running, _folders, _numbers = [], [], itertools.count(1)


@contextlib.contextmanager
def session():
    """A temporary folder for all that runs. At its end, also an early one, every server is stopped and the folder gone."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    _folders.append(Path(tempfile.mkdtemp(prefix="rondo-")))
    try:
        yield _folders[-1]
    finally:
        # Nothing interrupts the cleaning up.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for server in list(_running):
            Server.stop(server, wait_s=0.2)
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def stop_all():
    while _running:
        _running[-1].stop(wait_s=0.2)


def folder():
    return _folders[-1]


def fresh_path(name):
    """A path in the folder that no other server has."""
    return folder() / f"{next(_numbers)}-{name}"


def write(name, text):
    """A file of that text in the folder."""
    path = fresh_path(name)
    path.write_text(text)
    return path


def descriptors():
    """Raises the soft limit to the hard one, for this process and all it starts; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


_given = set()


def free_port():
    """A port on which nothing listens, below the range from which outgoing connections take theirs."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as line:
        first_outgoing = int(line.read().split()[0])
    highest = first_outgoing - 1 if first_outgoing > 12000 else 65535
    for _ in range(1000):
        port = random.randint(10000, highest)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise Failure("no free port on 127.0.0.1")


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
