"""Exact counts under callgrind: instructions of the parts, and what the whole program allocates for one request.

Both are differences of two runs, one of which does more of the same: what start and end cost falls out, and what
remains is the same on a busy machine and on an idle one. Callgrind sees no kernel.
"""

import collections
import json
import os
import re
import subprocess
from dataclasses import replace

from kit.client import Client
from kit.process import Failure, folder
from origin import MANY
from peers import METHODS, RONDO, of_many

FEW, MORE = 1_000, 6_000  # of a part
WARM, MEASURED = 200, 1_000  # requests to the whole program
WARM_MANY = 2 * MANY  # each backend has an idle connection then
ALLOCATING = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}
# Between an allocation and who wanted it.
DULL = re.compile(r"__rustc::|alloc::raw_vec|<alloc::raw_vec|" + "|".join(ALLOCATING))
REQUESTS = {
    "GET, 128 bytes": ("/128", 0, RONDO),
    "GET, 16 KiB": ("/16k", 0, RONDO),
    "GET, chunked 16 KiB": ("/chunked", 0, RONDO),
    "POST, 16 KiB": ("/upload", 16 << 10, RONDO),
    **{f"GET, 128 bytes, {method}, {MANY:,} backends": ("/128", 0, replace(of_many(RONDO), method=method)) for method in METHODS},
}


def instructions(root):
    """For each part of tests/bench/instructions.rs: instructions and allocations for one operation."""
    program = built(root, ["bench", "--no-run", "--bench", "instructions"], "instructions")
    parts = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    found = {}
    for part in parts:
        few, more = (profile(callgrind([program, part, str(times)])) for times in (FEW, MORE))
        times = MORE - FEW
        found[part] = {
            "instructions": (more.instructions - few.instructions) / times,
            "allocations": (more.allocations - few.allocations) / times,
        }
    return found


def allocations(root, origin):
    """For each kind of request on one kept connection: what the whole of rondo allocates, and who asks for it."""
    program = built(root, ["build", "--release", "--bin", "rondo"], "rondo")
    found = {}
    for name, (path, upload_bytes, peer) in REQUESTS.items():
        warm = WARM_MANY if peer.many else WARM
        few, more = (profile(serve(program, origin, peer, path, upload_bytes, count))
                     for count in (warm, warm + MEASURED))
        callers = more.callers - few.callers
        found[name] = {
            "allocations": (more.allocations - few.allocations) / MEASURED,
            "frees": (more.frees - few.frees) / MEASURED,
            "instructions": (more.instructions - few.instructions) / MEASURED,
            # A batch of log lines or a timer is no allocation of a request's.
            "callers": {caller: count / MEASURED for caller, count in callers.most_common(8) if count >= MEASURED / 100},
        }
    return found


def built(root, command, target):
    """The release build with its symbols, in a directory of its own: the stripped one stays as it is."""
    environment = dict(os.environ, CARGO_TARGET_DIR=os.path.join(root, "target", "symbols"))
    for profile_name in ("RELEASE", "BENCH"):
        environment[f"CARGO_PROFILE_{profile_name}_STRIP"] = "false"
        environment[f"CARGO_PROFILE_{profile_name}_DEBUG"] = "line-tables-only"
    done = subprocess.run(["cargo", *command, "--locked", "--quiet", "--message-format", "json"], cwd=root, env=environment,
                          stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == target:
            return message["executable"]
    raise Failure(f"cargo {' '.join(command)} built no {target}")


def callgrind(command):
    out = str(folder() / "callgrind.out")
    done = subprocess.run([*valgrind(out), *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"callgrind: {' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return out


def valgrind(out):
    # Names and line numbers in full, so that the file reads line by line; allocating functions apart by who called.
    return ["valgrind", "--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no",
            *(f"--separate-callers7={name}" for name in sorted(ALLOCATING)), f"--callgrind-out-file={out}"]


def serve(program, origin, peer, path, upload_bytes, requests):
    """Runs rondo under callgrind, sends it so many requests on one connection, stops it."""
    out = str(folder() / "callgrind.out")
    server = peer.start(program, origin, wrap=valgrind(out))
    # A short Host, so that counts of today compare with those of before.
    client = Client(server.port, timeout_s=60, host="bench")
    for _ in range(requests):
        if upload_bytes:
            answer = client.request("POST", path, b"x" * upload_bytes)
        else:
            answer = client.get(path)
        if answer.status != 200 or answer.error:
            raise Failure(f"rondo answered {answer.status} {answer.error} under callgrind")
    client.close()
    server.stop(wait_s=60)
    if not os.path.exists(out):
        raise Failure("callgrind wrote no profile of rondo: it was not stopped in time")
    return out


class Profile:
    """The sums of one callgrind file that matter here."""

    def __init__(self):
        self.instructions = self.allocations = self.frees = 0
        self.callers = collections.Counter()


def profile(path):
    """Reads the file, then removes it."""
    found = Profile()
    callee = calls = None
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            if calls is not None:
                # The line after `calls=`, which says what the calls cost. A name goes on with those of its callers.
                called, *callers = callee.split("'")
                if called in ALLOCATING:
                    found.allocations += calls
                    found.callers[" < ".join([c for c in callers if not DULL.match(c)][:3])] += calls
                elif called == "free":
                    found.frees += calls
                calls = None
            elif line.startswith(("summary:", "totals:")):
                found.instructions = int(line.split(":")[1].split()[0])
            elif key == "cfn":
                callee = value
            elif key == "calls":
                calls = int(value.split()[0])
    os.remove(path)
    return found
