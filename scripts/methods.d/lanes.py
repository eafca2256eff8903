"""Who takes part, and a round: each proxy has a lane of its own, with four origins and a load, and the lanes run at once.

Side by side they see the same minute of the machine. Together they must leave it more than half idle: the origins sleep.

Read next: tables.py.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cases
import machine
import measure
from kit import process
from kit.process import Failure, Server, free_port, fresh_path
from peers import METHODS, Peer

HERE = Path(__file__).resolve().parent
LATE_MS = 5  # of the 99th percentile: a load that is later than this has not put the question
RETURNED = 0.8  # of an equal share
WINDOW_S = 2  # in which shares are counted


@dataclass(frozen=True)
class Contestant:
    peer: Peer
    good_only: bool = False  # the same load on three origins, all of which are well

    @property
    def name(self):
        return self.peer.name

    @property
    def kind(self):
        return self.peer.kind


def _contestant(kind, method):
    name = method if kind == "rondo" else METHODS[method][kind].rstrip(";")
    return Contestant(Peer(f"{kind} {name}", kind, method=method, alone=True))


CONTESTANTS = (
    *(_contestant("rondo", method) for method in ("fastest", "least_connections", "random_two", "round_robin")),
    *(_contestant(kind, method) for kind in ("haproxy", "nginx") for method in ("least_connections", "random_two")),
    _contestant("caddy", "least_connections"),
)
# What there is to win at all: nothing wrong with any origin.
REFERENCE = Contestant(Peer("three good alone", "rondo", method="least_connections", alone=True), good_only=True)


def of(case):
    """Who takes part in the case."""
    return CONTESTANTS if case.well() == 4 else (*CONTESTANTS, REFERENCE)


class Lane:
    """A proxy between its own four origins and its own load."""

    def __init__(self, contestant, case, pace, program):
        self.contestant, self.case, self.pace = contestant, case, pace
        ports = [free_port() for _ in cases.NAMES]
        slow = [str(at + pace.warm_s) for at in case.slow_s(pace.seconds) or (0, 0)]
        self.received_path = fresh_path("received")
        self.origins = _script("origins", [case.kind, *slow, *map(str, ports)], self.received_path, ports[-1])
        self.used = ports[:3] if contestant.good_only else ports
        self.proxy = contestant.peer.start(program, self)

    def backends(self, _many=False):
        """As a proxy of scripts/bench asks for them."""
        return [f"127.0.0.1:{port}" for port in self.used]

    def servers(self):
        return [self.origins, self.proxy]

    def begin(self, rate, seed):
        self.answered_path = fresh_path("answered")
        numbers = [self.proxy.port, rate, self.pace.warm_s + self.pace.seconds, self.pace.deadline_s]
        self.load = _script("openloop", [*map(str, numbers), seed], self.answered_path)

    def end(self):
        """The figures, once the last request has been answered or given up."""
        try:
            status = self.load.process.wait(self.pace.warm_s + self.pace.seconds + self.pace.deadline_s + 60)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"the load on {self.contestant.name} does not end\n{self.load.errors()}") from error
        for server in self.servers():
            server.expect_alive("under load")
        if status != 0:
            raise Failure(f"the load on {self.contestant.name} ended with status {status}\n{self.load.errors()}")

    def stop(self):
        for server in (self.load, self.proxy, self.origins):
            server.stop()

    def figures(self):
        loaded, received = _read(self.answered_path), _read(self.received_path)
        seconds, begin = self.pace.seconds, loaded["begun"] + self.pace.warm_s
        measured = [(late, took, status) for due, late, took, status
                    in zip(loaded["due_s"], loaded["late_ms"], loaded["took_ms"], loaded["status"]) if due >= self.pace.warm_s]
        given_up = 1000 * self.pace.deadline_s - 0.01  # and its rounding
        # What failed at once took no time that is worth a figure; what was given up took at least that long.
        times = sorted(took for _, took, status in measured if status == 200 or took >= given_up)
        failures = {}
        for _, took, status in measured:
            if status != 200:
                how = "given up" if took >= given_up else {0: "broken off", -1: "wrong"}.get(status, str(status))
                failures[how] = failures.get(how, 0) + 1
        if len(times) < 10:
            raise Failure(f"behind {self.contestant.name} hardly a request was answered: {failures}")
        arrivals = [[at - begin for at in each if 0 <= at - begin <= seconds] for each in received[: len(self.used)]]
        total = sum(map(len, arrivals))
        figures = {
            "requests": len(measured),
            "late_p99_ms": quantile(sorted(late for late, _, _ in measured), 0.99),
            "p50_ms": quantile(times, 0.5),
            "p99_ms": quantile(times, 0.99),
            "failed": sum(failures.values()),
            "failures": failures,
            "shares": [len(each) / max(1, total) for each in arrivals],
            "longest_gaps_s": [longest_gap(each, seconds) for each in arrivals],
        }
        if self.case.kind == "slow for a while" and not self.contestant.good_only:
            figures["returns_s"] = returns(arrivals, self.case.slow_s(seconds)[1], seconds)
        return figures, times


def _script(name, arguments, output, port=None):
    command = [sys.executable, "-S", str(HERE / f"{name}.py"), *arguments]
    return Server(name, command, port, output, waits=port is not None)


def _read(path):
    with open(path, encoding="ascii") as text:
        found = json.load(text)
    os.remove(path)
    return found


def quantile(times, share):
    """Of sorted times: the one that has this share of them below it."""
    return times[min(len(times) - 1, int(share * len(times)))]


def longest_gap(arrivals, seconds):
    """The longest time without a request."""
    ends = [0.0, *arrivals, seconds]
    return max(later - earlier for earlier, later in zip(ends, ends[1:]))


def returns(arrivals, well_at, seconds):
    """How long after it was well again origin four had its share: the end of the first window with 80 % of an equal one.
    None: not at all."""
    step = 0.1
    for number in range(int((seconds - well_at - WINDOW_S) / step) + 1):
        begin = well_at + number * step
        inside = [sum(begin <= at < begin + WINDOW_S for at in each) for each in arrivals]
        if sum(inside) and inside[-1] / sum(inside) >= RETURNED / len(arrivals):
            return begin + WINDOW_S - well_at
    return None


def play(case, load, options, program):
    """All rounds of a case at one load, as it goes into the JSON."""
    pace = replace(options.pace, rounds=options.pace.rounds or case.rounds, seconds=options.pace.seconds or case.seconds)
    rounds = pace.rounds
    taking_part = [each for each in of(case) if each.kind in options.kinds]
    slots, times = {each.name: [] for each in taking_part}, {each.name: [] for each in taking_part}
    notes, seen, failures = [], [], {}
    for number in range(rounds):
        # Each round begins with another one.
        turn = number % len(taking_part)
        order = taking_part[turn:] + taking_part[:turn]
        for first in range(0, len(order), options.lanes):
            heat = order[first : first + options.lanes]
            measure.progress(f"{case.name}, {load} %: round {number + 1} of {rounds}, {', '.join(each.name for each in heat)}")
            found, busy = run(heat, case, load, pace, number, program, failures)
            seen.append(busy)
            for name, (figures, took) in found.items():
                slots[name].append(figures)
                times[name].append(took)
        taking_part = [each for each in taking_part if each.name not in failures]
        if not taking_part:
            raise Failure("none of the proxies ran: " + "; ".join(failures.values()))
    measure.progress("")
    late = [max(slots[each.name][number]["late_p99_ms"] for each in taking_part) for number in range(rounds)]
    kept = [number for number in range(rounds) if late[number] <= LATE_MS]
    notes += [f"round {number + 1} is left out: the load was {late[number]:.0f} ms late (99th percentile)"
              for number in range(rounds) if number not in kept]
    if not kept:
        notes[:] = [f"in every round the load was late, {max(late):.0f} ms at worst (99th percentile): these figures are noise"]
        kept = range(rounds)
    return {
        "name": case.name, "title": case.title, "load": load, "rate": case.rate(load), **asdict(pace),
        "late_p99_ms": max(late), "was_late": len(kept) < rounds or max(late) > LATE_MS,
        "busy": statistics.median(busy for busy, _ in seen), "other_cores": statistics.median(other for _, other in seen),
        "notes": notes, "failures": failures, "simulation": case.simulation(load, pace.seconds),
        "contestants": [summary(each, [slots[each.name][n] for n in kept], [times[each.name][n] for n in kept])
                        for each in taking_part],
    }


def summary(contestant, slots, times):
    """Medians over the rounds. One in a thousand is too rare for a round: p99.9 is that of all of them together."""
    gaps, shares = zip(*(slot["longest_gaps_s"] for slot in slots)), zip(*(slot["shares"] for slot in slots))
    found = {
        "name": contestant.name, "kind": contestant.kind, "method": contestant.peer.method, "good_only": contestant.good_only,
        "p50_ms": measure.spread([slot["p50_ms"] for slot in slots]),
        "p99_ms": measure.spread([slot["p99_ms"] for slot in slots]),
        "p999_ms": quantile(sorted(sum(times, [])), 0.999),
        "requests": sum(slot["requests"] for slot in slots),
        "failed": sum(slot["failed"] for slot in slots),
        "failures": {},
        "shares": [statistics.median(each) for each in shares],
        "longest_gaps_s": [max(each) for each in gaps],
    }
    for slot in slots:
        for how, count in slot["failures"].items():
            found["failures"][how] = found["failures"].get(how, 0) + count
    if "returns_s" in slots[0]:
        returned = [slot["returns_s"] for slot in slots]
        found["returns_s"] = None if None in returned else max(returned)
    return found


def run(heat, case, load, pace, number, program, failures):
    """Everything is started for this alone: no proxy knows an origin yet. Those that do not run are put into `failures`."""
    lanes = []
    try:
        for each in heat:
            try:
                lanes.append(Lane(each, case, pace, program))
            except Failure as failure:
                failures[each.name] = " ".join(str(failure).split())
        if not lanes:
            return {}, (0, 0)
        watch = measure.Bystanders([server for lane in lanes for server in lane.servers()])
        begun, before = time.monotonic(), machine.spent_s()
        for lane in lanes:
            lane.begin(case.rate(load), f"{case.name} {load} {number}")
        for lane in lanes:
            lane.end()
        busy = (machine.spent_s() - before) / (time.monotonic() - begun) / len(os.sched_getaffinity(0))
        other = watch.cores()
        for lane in lanes:
            lane.stop()
        return {lane.contestant.name: lane.figures() for lane in lanes}, (busy, other)
    finally:
        process.stop_all()
