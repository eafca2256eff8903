"""What a script says: a line for each thing that it checks, and a last line with the counts.

`run` is the main program of a script that is made of parts.
"""

import argparse
import sys
import time

from kit import process, tools

results = {"passed": [], "failed": [], "skipped": []}


def check(what, good, figure=""):
    say("passed" if good else "failed", what, figure)
    return good


def skip(what, why):
    say("skipped", what, why)


def say(result, what, figure=""):
    word = {"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}[result]
    print(f"  {word}  {what}{': ' if figure != '' else ''}{figure}", flush=True)
    results[result].append(what)


def until(what, condition, seconds=20):
    """Waits for the condition; a check that failed when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return check(what, False, f"not within {seconds} s")
        time.sleep(0.002)
    return True


def close(script):
    """The last line; gives the exit status."""
    for what in results["failed"]:
        print(f"FAIL  {what}")
    counts = {result: len(all_of_it) for result, all_of_it in results.items()}
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{script}: {counts['passed']} passed, {counts['failed']} failed{skipped}")
    return 1 if counts["failed"] or not counts["passed"] else 0


def run(script, doc, parts, wants=()):
    """Runs the parts that are named on the command line, or all; then ends the process. `wants` are programs to install."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all of them when left out")
    parser.add_argument("--quick", action="store_true", help="less of everything, where a part knows how")
    parser.add_argument("--no-install", dest="install", action="store_false", help="install nothing")
    options = parser.parse_args()
    if unknown := {*options.parts} - {*parts}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    tools.install(wants, options.install)
    with process.session():
        for name in options.parts or parts:
            begin = time.monotonic()
            print(name, flush=True)
            try:
                parts[name](options.quick)
            except process.Failure as failure:
                check(name, False, " ".join(str(failure).split()))
            process.stop_all()
            print(f"  ({time.monotonic() - begin:.1f} s)", flush=True)
    sys.exit(close(script))
