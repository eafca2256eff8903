"""The program under test: built once, started over some backends, asked what it logged."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from kit.process import Failure, Server, write
from kit.report import until

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def build():
    """The release build's path."""
    print("building rondo (release)", file=sys.stderr, flush=True)
    if subprocess.run(["cargo", "build", "--locked", "--release", "--quiet"], cwd=ROOT, check=False).returncode != 0:
        sys.exit("rondo does not build")
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "release/rondo")


class Rondo(Server):
    """`backends` are Origins, or entries of the configuration; `sections` its other sections. `path` is a whole one."""

    def __init__(self, backends=(), program=None, name="rondo", wrap=(), output=None, path=None, **sections):
        proxy = {"port": 0, "address": "127.0.0.1", "access_log": False, **sections.pop("proxy", {})}
        entries = [each if isinstance(each, dict) else entry(each) for each in backends]
        path = path or write("config.json", json.dumps({"proxy": proxy, "backends": entries, **sections}, indent=2))
        super().__init__(name, [*wrap, program or build(), str(path)], None, output)

    def is_ready(self):
        found = re.search(r"listening on \S*:(\d+)\n", self.errors())
        self.port = found and int(found[1])
        return found is not None

    def stop(self, first=signal.SIGTERM, wait_s=5):
        ended = self.process.poll()
        super().stop(first, wait_s)
        if ended is not None:
            raise Failure(f"{self.name} ended by itself, with status {ended}\n{self.errors()}")

    def admin_port(self):
        return int(re.search(r"admin interface on http://\S+:(\d+)/", self.errors())[1])

    def events(self):
        """The lines that it logged."""
        return Path(self.errors_path).read_text(encoding="utf-8", errors="replace").splitlines()

    def count(self, name, state):
        return sum(f'backend "{name}" is {state}' in line for line in self.events())

    def wait(self, name, state, times=1):
        return until(f"{name} is {state}", lambda: self.count(name, state) >= times)


def entry(origin, **more):
    return {"url": f"http://127.0.0.1:{origin.port}/", "name": origin.name, **more}
