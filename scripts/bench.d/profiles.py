"""Where the CPU time of each proxy goes: its own code, the C library, and the kernel by system call.

perf takes a sample of the stack 5,000 times a second. A sample belongs to the system call that it is in, with all that
the kernel does there: on one host, sending includes the way through the peer's end and the waking of it.
"""

import collections
import os
import signal
import subprocess
import time

import load
from kit.process import Failure, folder
from scenarios import SCENARIOS

SHOWN = ("keep-1", "keep-64", "close-64", "1m")
KINDS = {
    "send": ("sendto", "sendmsg", "write", "writev"),
    "receive": ("recvfrom", "recvmsg", "read", "readv"),
    "splice": ("splice", "sendfile64"),
    "wait": ("epoll_wait", "epoll_pwait", "ppoll", "poll", "select", "pselect6"),
    "connections": ("accept", "accept4", "socket", "connect", "close", "shutdown", "epoll_ctl"),
}
CALLS = {f"__x64_sys_{call}": kind for kind, calls in KINDS.items() for call in calls}
# What the first function of a call ends with calling stands in its place on the stack.
CALLS |= {"do_writev": "send", "ksys_write": "send", "do_readv": "receive", "ksys_read": "receive", "do_sendfile": "splice"}
PARTS = ("own code", "C library", *KINDS, "rest of the kernel")


def profiles(options, rondo, origin):
    """For each of the scenarios and proxies: CPU time of a request, and the share of each part in it."""
    found = []
    for scenario in (s for s in SCENARIOS if s.name in (options.only or SHOWN)):
        for peer in scenario.peers:
            if peer.kind not in options.peers or peer.name.endswith("again"):
                continue
            server = peer.start(rondo, origin)
            load.check(scenario, server, origin)
            load.run(scenario, server, 1)
            slot, shares = _sampled(scenario, server, options.seconds)
            server.stop()
            found.append({"scenario": scenario.name, "proxy": peer.name,
                          "cpu_us": slot.usage.cpu_ns / 1e3 / max(1, slot.requests), "shares": shares})
    return found


def _sampled(scenario, server, seconds):
    out = str(folder() / "perf.data")
    command = ["perf", "record", "-e", "cpu-clock", "-F", "4999", "-g", "-o", out, "-p", ",".join(map(str, server.pids))]
    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    slot = load.run(scenario, server, seconds)
    watch.send_signal(signal.SIGINT)
    said = watch.communicate()[1]
    if not os.path.exists(out):
        raise Failure(f"perf took no samples: {said.strip()}")
    samples = subprocess.run(["perf", "script", "-i", out, "-F", "ip,sym,dso"], capture_output=True, text=True, check=True)
    os.remove(out)
    return slot, _shares(samples.stdout)


def _shares(samples):
    counted = collections.Counter(_part([line.split(None, 1)[1] for line in stack.splitlines() if " " in line.strip()])
                                  for stack in samples.split("\n\n") if stack.strip())
    total = max(1, sum(counted.values()))
    return {part: counted[part] / total for part in PARTS}


def _part(frames):
    """`frames` are `symbol (program)`, the innermost first."""
    innermost = frames[0] if frames else ""
    if "(/" in innermost:
        return "C library" if "/libc" in innermost else "own code"
    if "[vdso]" in innermost:
        return "C library"
    for frame in frames:
        kind = CALLS.get(frame.split("+")[0].split(" ")[0])
        if kind:
            return kind
    return "rest of the kernel"
