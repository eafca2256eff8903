"""The figures as text: a table for each case and load, and what they say of the goals."""

import json

import cases


def heading(results):
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    commit = f"; commit {machine['commit']}" if machine["commit"] else ""
    return "\n".join([
        f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Linux {machine['kernel']}",
        f"versions  {versions}{commit}",
        f"origins   four, each of {cases.AT_ONCE} requests at once; work of {cases.P50_MS} ms in the median, {cases.P99_MS} ms at the "
        f"99th percentile, {cases.MEAN_MS:.1f} ms on average",
        "method    open load, times from when a request was due; every proxy with its method alone: no checks, no second try; "
        "medians of rounds (min..max),",
        "          p99.9 of all rounds together; what was given up after "
        f"{cases.FULL.deadline_s} s counts with that time, other failures are in none of the times;",
        "          gaps are the longest time that each origin had no request, four last; back after: the longest of the rounds; "
        "`three good alone`",
        "          is the same load on three origins by rondo's least_connections, so each of them gets a third of it",
    ])


def listing(pace):
    """The cases, each with what `rondo --simulate` can play of it."""
    lines = []
    for each in cases.CASES:
        lines.append(f"{each.name:<10}{each.title}")
        for load in cases.LOADS:
            scenario = each.simulation(load, pace.seconds or each.seconds)
            lines.append(f"{'':<10}{load} %: " + (json.dumps(scenario) if scenario else "nothing that rondo --simulate knows"))
    return "\n".join(lines)


def case(found):
    well = "four" if found["name"] == "equal" else "three"
    lines = [f"{found['title']}  [{found['name']}]",
             f"  {found['rate']:.0f} requests a second, {found['load']} % of what the {well} good origins can do; "
             f"{found['rounds']} x {found['seconds']} s"]
    returning = any("returns_s" in each for each in found["contestants"])
    rows = [["", "p50 ms", "p99 ms", "p99.9 ms", "failed", "four's share", "gaps s", *(["back after"] if returning else [])]]
    for each in found["contestants"]:
        row = [each["name"], f"{each['p50_ms']['median']:.0f}", _spread(each["p99_ms"]), f"{each['p999_ms']:.0f}", _failed(each),
               "-" if each["good_only"] else f"{each['shares'][-1]:.1%}", " ".join(f"{gap:.1f}" for gap in each["longest_gaps_s"])]
        if returning:
            after = each.get("returns_s", "")
            # From the middle of a round on it was fast again.
            row.append("-" if after == "" else f"> {found['seconds'] / 2:.0f} s" if after is None else f"{after:.1f} s")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  " + "  ".join(cells))
    lines.append(f"  the machine was {found['busy']:.0%} busy, {found['other_cores']:.1f} cores of it for something else; the load was late by "
                 f"{found['late_p99_ms']:.1f} ms (99th percentile)")
    lines += [f"  note: {note}" for note in found["notes"]]
    lines += [f"  FAILED: {failure}" for failure in found["failures"].values()]
    return "\n".join(lines)


def goals(results):
    """What has been promised, as far as it was measured."""
    found = []
    # Short rounds show nothing of it.
    if min(each["seconds"] for each in results["cases"]) <= 10:
        return found
    played = {(each["name"], each["load"]): {c["name"]: c for c in each["contestants"]} for each in results["cases"]}
    p99 = lambda contestant: contestant["p99_ms"]["median"]  # noqa: E731

    def goal(text, value, limit):
        found.append({"goal": f"{text}: {value:.2f}, at most {limit:g}", "met": value <= limit})

    slow = played.get(("slow", 60), {})
    if fastest := slow.get("rondo fastest"):
        others = [each for each in slow.values() if each["kind"] != "rondo"]
        if others:
            best = min(others, key=p99)
            goal(f"slow, 60 %: p99 of fastest to that of the best peer ({best['name']})", p99(fastest) / p99(best), 0.5)
        if "three good alone" in slow:
            goal("slow, 60 %: p99 of fastest to that of three good origins alone", p99(fastest) / p99(slow["three good alone"]), 1.2)
    for (name, load), contestants in played.items():
        if (fastest := contestants.get("rondo fastest")) and name == "equal" and "rondo least_connections" in contestants:
            other = contestants["rondo least_connections"]
            for what in ("p50_ms", "p99_ms"):
                ratio = fastest[what]["median"] / other[what]["median"]
                goal(f"equal, {load} %: {what[:3]} of fastest to that of least_connections, the larger to the smaller",
                     max(ratio, 1 / ratio), 1.05)
        if fastest:
            goal(f"{name}, {load} %: the longest time that an origin had no request from fastest, in seconds",
                 max(fastest["longest_gaps_s"]), 10)
        if fastest and "returns_s" in fastest:
            after = fastest["returns_s"]
            goal(f"{name}, {load} %: until an origin that is fast again has its share from fastest, in seconds",
                 float("inf") if after is None else after, 30)
    return found


def goals_text(results):
    noise = " (the load was late in some rounds, see above)" if any(each["was_late"] for each in results["cases"]) else ""
    return "\n".join(["goals" + noise, *(f"  {'met   ' if each['met'] else 'MISSED'}  {each['goal']}" for each in results["goals"])])


def _spread(value):
    middle, low, high = (f"{value[key]:.0f}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}..{high})"


def _failed(contestant):
    if not contestant["failed"]:
        return "0"
    how = ", ".join(f"{count} {how}" for how, count in sorted(contestant["failures"].items()))
    return f"{contestant['failed'] / contestant['requests']:.1%} ({how})"
