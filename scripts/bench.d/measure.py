"""Takes the figures of one scenario: rounds A B C A B C, then pairs that take turns second by second.

Read next: report.py.
"""

import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import load
import machine
from peers import Unsupported
from kit.process import Failure
from scenarios import IDLE

PAIRS = (
    ("rondo", "nginx"), ("rondo", "nginx stream"), ("rondo x2", "nginx x2"),
    ("rondo", "nginx 64k"), ("rondo", "nginx, log in blocks"), ("rondo", "nginx stream 64k"),
    ("rondo", "haproxy"), ("rondo", "haproxy splice"), ("rondo x2", "haproxy x2"),
    ("rondo", "pen"),
    ("rondo, 1000", "rondo"), ("nginx, 1000", "nginx"), ("haproxy, 1000", "haproxy"),
    ("rondo", "rondo, none idle"), ("rondo x2", "rondo"),
    ("nginx again", "nginx"), ("nginx stream again", "nginx stream"),
)
IDLE_DESCRIPTORS = 1200  # of a proxy, for the load beside the idle connections


def measure(scenario, options, rondo, origin):
    """All of one scenario, as it goes into the JSON. Proxies are started for it alone, so that peak memory is its own."""
    notices, failures, servers, idle = [], [], {}, {}
    wanted = [p for p in scenario.peers if p.kind in options.peers and not (options.smoke and p.name in SMOKE_LEAVES_OUT)]
    try:
        for peer in wanted:
            try:
                servers[peer] = peer.start(rondo, origin)
            except Unsupported as error:
                notices.append(f"{peer.name} is left out: {error}")
                continue
            load.check(scenario, servers[peer], origin)
        if not servers:
            return {"name": scenario.name, "title": scenario.title, "notices": notices, "failures": [], "proxies": [], "turns": []}
        # Connections to the origin are opened, memory is touched; the smoke test has no figures to spoil.
        for server in servers.values() if not options.smoke else ():
            load.run(scenario, server, 1)
        for peer, server in servers.items():
            if peer.idle:
                idle[peer] = load.Idle(server, idle_count(options, server, notices))
        watch = Bystanders([origin.server, *servers.values()])
        slots = rounds(scenario, options, servers, failures)
        proxies = [figures(scenario, server, slots[peer], slots[next(iter(servers))]) for peer, server in servers.items()]
        for (peer, server), figure in zip(servers.items(), proxies):
            figure["peak_memory_mb"] = server.memory_bytes("VmHWM") / 1e6
            if options.syscalls:
                figure["syscalls_per_request"] = system_calls(scenario, server)
            if peer in idle:
                figure["idle_connections"] = idle[peer].count
                figure["idle_bytes_each"] = round(idle[peer].bytes_each)
        turns = take_turns(scenario, options, servers, failures)
        other_cores = watch.cores()
    finally:
        for peer, held in idle.items():
            lost = held.end()
            if lost:
                failures.append(f"{peer.name} closed {lost} of {held.count} idle connections")
        for server in servers.values():
            server.stop()
    for peer, server in servers.items():
        if server.log_path:
            missing = lines_missing(server)
            if missing > 0.001 or "access lines are lost" in server.errors():
                failures.append(f"{peer.name} wrote {missing:.1%} fewer access lines than it answered requests")
            os.remove(server.log_path)
    return {
        "name": scenario.name, "title": title_of(scenario, options), "bulk": scenario.bulk, "connections": scenario.connections,
        "other_cores": round(other_cores, 2),
        "notices": notices, "failures": failures, "proxies": proxies, "turns": turns,
    }


def title_of(scenario, options):
    return scenario.title.replace(f"{IDLE:,}", f"{options.idle:,}")


SMOKE_LEAVES_OUT = {"nginx again", "nginx stream again", "haproxy splice", "nginx, log in blocks", "nginx, none idle",
                    "haproxy, none idle"}


def idle_count(options, server, notices):
    """As many as asked for, if the descriptors allow it."""
    room = options.descriptors - IDLE_DESCRIPTORS
    if options.idle > room:
        notices.append(f"{server.name}: {room} idle connections instead of {options.idle}, the descriptor limit is {options.descriptors}")
    return min(options.idle, room)


class Bystanders:
    """How many cores worked for something else meanwhile, or were taken away by the machine's host."""

    def __init__(self, servers):
        self.servers = servers
        self.begun, self.before = time.monotonic(), self._elsewhere()

    def _elsewhere(self):
        ours = sum(server.usage().cpu_ns for server in self.servers) / 1e9
        own, waited_for = os.times(), resource.getrusage(resource.RUSAGE_CHILDREN)
        return machine.spent_s() - ours - own.user - own.system - waited_for.ru_utime - waited_for.ru_stime

    def cores(self):
        return max(0.0, (self._elsewhere() - self.before) / (time.monotonic() - self.begun))


def rounds(scenario, options, servers, failures):
    slots = {peer: [] for peer in servers}
    for number in range(1, options.rounds + 1):
        # Each has another one before it in every round, and what that left in the caches.
        order = list(servers.items())
        order = order[number % len(order):] + order[:number % len(order)]
        for peer, server in order:
            slot = slot_of(scenario, server, options.seconds, failures)
            slots[peer].append(slot)
            progress(f"{scenario.name}: round {number} of {options.rounds}, {peer.name}: {rate(scenario, slot):,.0f}")
    progress("")
    return slots


def slot_of(scenario, server, seconds, failures):
    slot = load.attempt(scenario, server, seconds)
    if slot.failed:
        failures.append(f"{server.name}: failed requests: {slot.failed}")
        print(f"FAILED {scenario.name}, {failures[-1]}", file=sys.stderr)
    return slot


def take_turns(scenario, options, servers, failures):
    """Slots of one second, A B B A A B B A: a machine whose speed drifts is the same one for both halves of a pair."""
    by_name = {peer.name: server for peer, server in servers.items()}
    found = []
    # Of the smoke test one pair is enough.
    pairs = PAIRS if not options.smoke else PAIRS[:1] if scenario.name == "keep-64" else ()
    for ours, theirs in pairs if options.turns else ():
        if ours not in by_name or theirs not in by_name:
            continue
        ratios = {"rate": [], "cpu": [], "p50": []}
        for number in range(options.turns):
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            slot = {name: slot_of(scenario, by_name[name], 1, failures) for name in order}
            if slot[ours].failed or slot[theirs].failed:
                continue
            ratios["rate"].append(rate(scenario, slot[ours]) / rate(scenario, slot[theirs]))
            ratios["cpu"].append(cpu(scenario, slot[ours]) / cpu(scenario, slot[theirs]))
            ratios["p50"].append(slot[ours].p50_us / max(1, slot[theirs].p50_us))
            progress(f"{scenario.name}: turn {number + 1} of {options.turns}, {ours} against {theirs}")
        progress("")
        if ratios["rate"]:
            found.append({"proxy": ours, "against": theirs, "pairs": len(ratios["rate"]),
                          **{f"{kind}_ratio": quartiles(values) for kind, values in ratios.items()}})
    return found


def figures(scenario, server, slots, base):
    """Medians over the rounds, and the ratios of each round to the same round of the first proxy."""
    work = [s.bytes / 1e9 if scenario.bulk else s.requests / 1e6 for s in slots]
    return {
        "name": server.name,
        "rate": spread([rate(scenario, s) for s in slots]),
        "rate_ratio": spread([rate(scenario, s) / max(1e-9, rate(scenario, b)) for s, b in zip(slots, base)]),
        "cpu_s": spread([cpu(scenario, s) for s in slots]),
        "cpu_ratio": spread([cpu(scenario, s) / max(1e-9, cpu(scenario, b)) for s, b in zip(slots, base)]),
        "p50_us": spread([s.p50_us for s in slots]),
        "p99_us": spread([s.p99_us for s in slots]),
        "switches_per_1000_requests": spread([s.usage.switches * 1000 / max(1, s.requests) for s in slots]),
        "cores_used": spread([s.usage.cpu_ns / 1e9 / s.seconds for s in slots]),
        "requests": sum(s.requests for s in slots),
        "work": sum(work),
    }


def rate(scenario, slot):
    """Requests, or megabytes, in a second."""
    return (slot.bytes / 1e6 if scenario.bulk else slot.requests) / slot.seconds


def cpu(scenario, slot):
    """CPU seconds of the proxy for a million requests, or for a gigabyte."""
    work = slot.bytes / 1e9 if scenario.bulk else slot.requests / 1e6
    return slot.usage.cpu_ns / 1e9 / max(1e-9, work)


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def lines_missing(server):
    """The part of the answered requests that the access log says nothing of (0 and less: nothing is missing)."""
    with open(server.log_path, "rb") as log:
        lines = sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 20), b""))
    return 1 - lines / max(1, server.answered)


def system_calls(scenario, server):
    """System calls for one request, by name. perf counts them nearly for free; strace slows the proxy down, which lets it
    do more for each wake-up and so flatters it."""
    by_perf = _perf(scenario, server)
    counted, requests = by_perf or _strace(scenario, server)
    each = {name: count / requests for name, count in counted.items() if count / requests >= 0.005}
    return {"by": "perf" if by_perf else "strace", "total": sum(counted.values()) / requests, **dict(sorted(each.items(), key=lambda item: -item[1]))}


CALLS = """accept accept4 bind clock_gettime close connect dup epoll_create1 epoll_ctl epoll_pwait epoll_wait fcntl futex
getpeername getsockname getsockopt ioctl madvise mmap munmap open openat pipe2 poll pread64 pwrite64 read readv recvfrom
recvmsg sched_yield select sendfile64 sendmsg sendto setsockopt shutdown socket splice timerfd_settime write writev""".split()


def _perf(scenario, server):
    if not shutil.which("perf"):
        return None
    traced = [call for call in CALLS if os.path.exists(f"/sys/kernel/tracing/events/syscalls/sys_enter_{call}")]
    events = ",".join(["raw_syscalls:sys_enter", *(f"syscalls:sys_enter_{call}" for call in traced)])
    watch = subprocess.Popen(["perf", "stat", "-x", ";", "-e", events, "-p", ",".join(map(str, server.pids))],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    if watch.poll() is not None:
        return None  # no permission, or no tracepoints in this kernel
    slot = load.run(scenario, server, 2)
    watch.send_signal(signal.SIGINT)
    counts = {}
    for line in watch.communicate()[1].splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].isdigit():
            counts[fields[2].rpartition("sys_enter_")[2]] = int(fields[0])
    total = counts.pop("raw_syscalls:sys_enter", 0)
    if not total:
        return None
    counts["others"] = max(0, total - sum(counts.values()))
    return counts, max(1, slot.requests)


def _strace(scenario, server):
    watch = subprocess.Popen(["strace", "-c", "-f", *(a for pid in server.pids for a in ("-p", str(pid)))],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    slot = load.run(scenario, server, 2)
    watch.send_signal(signal.SIGINT)
    counts = {}
    for line in watch.communicate()[1].splitlines():
        # % time, seconds, usecs/call, calls, errors where there are any, name
        row = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)", line)
        if row and row[2] != "total":
            counts[row[2]] = int(row[1])
    if not counts:
        raise Failure(f"neither perf nor strace could count the system calls of {server.name}")
    return counts, max(1, slot.requests)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
