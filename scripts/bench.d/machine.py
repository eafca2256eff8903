"""What the machine is, for the head of every report.

Read next: origin.py.
"""

import os
import subprocess

from kit.process import descriptors

NGINX_STREAM = "ngx_stream_module.so"


def nginx_stream_module():
    """nginx's TCP relay is a module of its own (Debian: libnginx-mod-stream); None where it is not installed."""
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    for option in built.split():
        if option.startswith("--modules-path="):
            path = os.path.join(option.split("=", 1)[1], NGINX_STREAM)
            return path if os.path.exists(path) else None
    return None


def first_line(*command):
    """The first line that a command prints, unless it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    if done.returncode != 0 and command[0] != "wrk":  # which ends with 1 even when it was only asked for its version
        return None
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0]


def describe(rondo, is_checkout, programs=("nginx", "haproxy", "pen", "wrk", "rondo")):
    """What the figures depend on, for the head of every report. No host name, no paths."""
    cpu = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as lines:
        memory_gb = round(int(lines.readline().split()[1]) / 1e6)
    versions = {
        "nginx": (first_line("nginx", "-v") or "").rpartition("/")[2],
        "haproxy": (first_line("haproxy", "-v") or "").split(" ")[2:3],
        # pen prints no version of its own.
        "pen": first_line("dpkg-query", "-W", "-f", "${Version}", "pen"),
        "caddy": (first_line("caddy", "version") or "").split(" ")[0],
        "wrk": (first_line("wrk", "-v") or "").split(" Copyright")[0].removeprefix("wrk "),
        "rondo": (first_line(rondo, "--version") or "").removeprefix("rondo ") if rondo else None,
    }
    versions["haproxy"] = versions["haproxy"][0] if versions["haproxy"] else None
    commit = is_checkout and first_line("git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": memory_gb,
        "kernel": os.uname().release.split("-")[0],
        "descriptors": descriptors(),
        "versions": {name: version for name, version in versions.items() if version and name in programs},
        "commit": commit or None,
    }


def spent_s():
    """CPU seconds all of the machine has worked since its start, with what its host took away from it."""
    with open("/proc/stat", encoding="ascii") as lines:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, lines.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
