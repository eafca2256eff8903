#!/usr/bin/env python3
"""The programs that the scripts run: which Debian package has each, which are missing, how they are installed.

    scripts/kit/tools.py missing PROGRAM...     prints those that are not here, each with its package
    scripts/kit/tools.py install PROGRAM...     installs their packages (root, apt-get), prints what is still missing
"""

import os
import shutil
import subprocess
import sys

# Debian keeps servers out of a user's PATH.
os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/sbin"])

PACKAGES = {
    "caddy": "caddy",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "curl": "curl",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nginx": "nginx",
    "node": "nodejs",
    "pen": "pen",
    "perf": "linux-perf",
    "promtool": "prometheus",
    "strace": "strace",
    "valgrind": "valgrind",
    "websockets": "python3-websockets",  # no program: a module, for some Python that is here
    "wrk": "wrk",
}


def missing(programs):
    return [name for name in programs if not (with_websockets() if name == "websockets" else shutil.which(name))]


def with_websockets():
    """A Python that has the websockets package: this one, or the distribution's."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", "import websockets"], capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            pass
    return None


def can_install():
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(programs, permitted=True):
    """Installs the packages of the programs that are not here, where that is possible; gives what is still missing."""
    absent = missing(programs)
    if not absent or not permitted or not can_install():
        return absent
    print("installing " + " ".join(PACKAGES[name] for name in absent), file=sys.stderr, flush=True)
    # RUNLEVEL=1: the packages' own services are not started, they would take port 80.
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    # All at once; then one at a time, because a distribution without one of them still has the others.
    for step in (["apt-get", "update"], command(absent), *(command([name]) for name in absent)):
        if missing(absent):
            subprocess.run(step, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False, timeout=900)
    return missing(absent)


def command(programs):
    return ["apt-get", "install", "--yes", "--no-install-recommends", *(PACKAGES[name] for name in programs)]


def require(script, programs, permitted=True):
    """Ends the run unless every program is here or can be installed."""
    if absent := install(programs, permitted):
        sys.exit(f"{script} needs {', '.join(absent)}: on Debian or Ubuntu, as root: {' '.join(command(absent))}")


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("missing", "install") or set(sys.argv[2:]) - set(PACKAGES):
        print(__doc__.strip())
        sys.exit(0 if "--help" in sys.argv else 2)
    absent = missing(sys.argv[2:]) if sys.argv[1] == "missing" else install(sys.argv[2:])
    for name in absent:
        print(name, PACKAGES[name])


if __name__ == "__main__":
    main()
