"""What is played: four origins, one of which is not well, and the load. Every parameter is here.

An origin works on `AT_ONCE` requests at a time and keeps the others in a queue, oldest first. A request brings its work
with it: a time that is drawn from a lognormal distribution and that the origin spends asleep, so that no processor is the
limit. The same requests, at the same times and with the same work, go to every proxy.

The load is open: requests come at random times (Poisson) whether or not earlier ones are answered. It is given in per cent
of what the origins that are well can do at most.

Read next: origins.py.
"""

import math
from dataclasses import dataclass
from typing import Optional

NAMES = ("one", "two", "three", "four")  # four is the one that is not well
P50_MS, P99_MS = 60, 180  # of the work; shorter, and this program is what is busy
AT_ONCE = 4
LOADS = (60, 90)  # per cent
SLOW = 10  # times the work, where four is slow
ANSWER = b"ok\n"
CLOSED_S = 1  # where connecting is slow: four accepts nothing for so long, then for as long whatever comes
BACKLOG = 1  # and has a listen queue of so many meanwhile; the kernel admits one more

SIGMA = math.log(P99_MS / P50_MS) / 2.3263478740408408  # the 99th percentile of the normal distribution
MEAN_MS = P50_MS * math.exp(SIGMA * SIGMA / 2)


@dataclass(frozen=True)
class Pace:
    """How long a round takes, in seconds, and how many there are; None: as the case says."""

    warm_s: int = 5  # before anything is measured
    deadline_s: int = 5  # a client waits no longer for its answer
    seconds: Optional[int] = None
    rounds: Optional[int] = None


FULL, QUICK = Pace(), Pace(1, 2, 2, 1)


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    kind: str  # of what is wrong with origin four, as origins.py takes it
    seconds: int = 20  # that are measured in a round
    rounds: int = 3

    def well(self):
        """How many of the origins are well."""
        return 4 if self.kind == "nothing" else 3

    def rate(self, load):
        """Requests in a second."""
        return self.well() * AT_ONCE / (MEAN_MS / 1000) * load / 100

    def slow_s(self, seconds):
        """From when to when four is slow, in seconds after the measuring began; None where it is not."""
        if self.kind == "slow":
            return -math.inf, math.inf
        # A third of the time, with half of it left to see how the proxy finds out that four is well again.
        return (seconds / 6, seconds / 2) if self.kind == "slow for a while" else None

    def simulation(self, load, seconds):
        """The same as a scenario of `rondo --simulate`; None where that knows no such thing."""
        if self.kind == "slow to connect":
            return None
        backend = {"latency": {"p50": f"{P50_MS}ms", "p99": f"{P99_MS}ms"}, "at_once": AT_ONCE}
        backends = {name: dict(backend) for name in NAMES}
        if self.kind == "slow":
            backends["four"]["events"] = [{"at": "0s", "slow": SLOW}]
        if self.kind == "slow for a while":
            begin, end = self.slow_s(seconds)
            backends["four"]["events"] = [{"at": _seconds(begin), "slow": SLOW}, {"at": _seconds(end), "slow": 1}]
        if self.kind == "failing":
            backends["four"] |= {"latency": {"p50": "1ms", "p99": "1ms"}, "errors": 1}
        return {"seed": 1, "duration": _seconds(seconds), "load": {"rate": round(self.rate(load))}, "backends": backends}


def _seconds(value):
    return f"{round(value * 1000)}ms"


CASES = (
    Case("slow", f"origin four takes {SLOW} times as long", "slow"),
    Case("third", f"origin four takes {SLOW} times as long for a third of the time", "slow for a while", seconds=75, rounds=2),
    Case("connect", f"origin four is slow to connect: it closes each connection after its answer, and accepts none for {CLOSED_S} s "
         f"out of {2 * CLOSED_S}, its listen queue full", "slow to connect"),
    Case("errors", "origin four answers 500 at once", "failing"),
    Case("equal", "all four origins are equal", "nothing"),
)
