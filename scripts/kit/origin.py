"""An origin as the scripts use it: its process can be stopped, killed and started again on the same port.

What it answers is in application.py.
"""

import mmap
import signal
import socket
import struct
import sys
from pathlib import Path

from kit import process

APPLICATION = Path(__file__).with_name("application.py")


class Origin:
    """`wait_ms` is what each answer takes, `record` a file that gets the X-Request-Id of each POST as soon as its head is
    there, `dies` the share of the POSTs that end the process."""

    def __init__(self, name=None, port=0, wait_ms=0, record=None, dies=0.0):
        # Bound and not listening: it holds the port while no process runs.
        self.held = socket.socket()
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.held.bind(("127.0.0.1", port))
        except OSError as error:
            raise process.Failure(f"port {port} cannot be had: {error.strerror}") from error
        self.port = self.held.getsockname()[1]
        self.name = name = name or f"origin-{self.port}"
        path = process.folder() / f"{name}-{self.port}.count"
        path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self.counter = mmap.mmap(file.fileno(), 8)
        self.command = [sys.executable, "-S", str(APPLICATION), str(self.port), name, "--counter", str(path)]
        self.command += ["--wait", str(wait_ms), "--dies", str(dies), *(["--record", str(record)] if record else [])]
        self.start()

    def start(self, waits=True):
        self.server = process.Server(self.name, self.command, self.port, waits=waits)

    def served(self):
        """Requests answered so far, over all its processes."""
        return struct.unpack("q", self.counter[:])[0]

    def alive(self):
        return self.server.process.poll() is None

    def kill(self):
        """As the kernel kills a process that is out of memory."""
        self.server.stop(signal.SIGKILL)

    def stop(self):
        """As an operator restarts an application."""
        self.server.stop()
