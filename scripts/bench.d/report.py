"""The figures as text: one table for each scenario. Everything comes from the results as they go into the JSON.

Read next: chart.py.
"""


def heading(results):
    machine, settings = results["machine"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join([
        f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Linux {machine['kernel']}, "
        f"{machine['descriptors']} descriptors",
        f"versions  {versions}; commit {machine['commit']}",
        f"method    {settings['rounds']} interleaved rounds of {settings['seconds']} s for each proxy, median (min..max); ratios are "
        "medians of the ratio to the first proxy in the same round;",
        "          CPU is that of all the proxy's processes: seconds for a million requests, or for a gigabyte; "
        f"turns are {settings['turns']} pairs of 1 s, median (quartiles)",
        "          proxy, origin and wrk share the cores, so throughput is that of all three; pen relays bytes and reads none; "
        "rondo's own",
        "          threads for accepting and for the log count as its CPU; peak MB counts pages that processes share for each",
    ])


def scenario(found):
    lines = [f"{found['title']}  [{found['name']}]"]
    if found["proxies"]:
        unit, work = ("MB/s", "CPU s/GB") if found["bulk"] else ("requests/s", "CPU s/M")
        rows = [["", unit, "ratio", "p50 ms", "p99 ms", work, "ratio", "cores", "peak MB", "switches/1000"]]
        rows += [_row(proxy, found["bulk"]) for proxy in found["proxies"]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
            lines.append("  " + "  ".join(cells))
    for proxy in found["proxies"]:
        if "idle_bytes_each" in proxy:
            lines.append(f"  {proxy['name']}: {proxy['idle_bytes_each']} bytes of resident memory for each of "
                         f"{proxy['idle_connections']} idle connections")
        if "syscalls_per_request" in proxy:
            calls = ", ".join(f"{name} {count:.2f}" for name, count in proxy["syscalls_per_request"].items() if name not in ("by", "total"))
            lines.append(f"  {proxy['name']}: {proxy['syscalls_per_request']['total']:.2f} system calls for each request ({calls}; {proxy['syscalls_per_request']['by']})")
    for turn in found.get("turns", []):
        lines.append(f"  turns, {turn['proxy']} to {turn['against']}: throughput {_quartiles(turn['rate_ratio'])}, "
                     f"CPU {_quartiles(turn['cpu_ratio'])}, p50 {_quartiles(turn['p50_ratio'])}")
    if found.get("other_cores", 0) > 0.1:
        lines.append(f"  note: {found['other_cores']:.1f} cores worked for something else meanwhile: these figures are noise")
    lines += [f"  note: {notice}" for notice in found["notices"]]
    lines += [f"  FAILED: {failure}" for failure in found["failures"]]
    return "\n".join(lines)


# The columns of README's table: those that do what rondo does there, and the noise.
COLUMNS = (
    ("nginx", (("rondo", "nginx"), ("rondo x2", "nginx x2"), ("rondo", "nginx stream"))),
    ("nginx, tuned", (("rondo", "nginx 64k"), ("rondo", "nginx, log in blocks"), ("rondo", "nginx stream 64k"))),
    ("HAProxy", (("rondo x2", "haproxy x2"), ("rondo", "haproxy"))),
    ("HAProxy, splice", (("rondo", "haproxy splice"),)),
    ("Pen", (("rondo", "pen"),)),
    ("nginx to itself", (("nginx again", "nginx"), ("nginx stream again", "nginx stream"))),
)


def markdown(results):
    """README's table: throughput and CPU of rondo in turns with each peer."""
    lines = ["| throughput, CPU | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for found in results["scenarios"]:
        turns = {(turn["proxy"], turn["against"]): turn for turn in found["turns"]}
        if "rondo x2" in {ours for ours, _ in turns}:
            # One worker against two says nothing here.
            turns = {pair: turn for pair, turn in turns.items() if pair[0] != "rondo"}
        cells = []
        for _, pairs in COLUMNS:
            turn = next((turns[pair] for pair in pairs if pair in turns), None)
            cells.append(f"{turn['rate_ratio']['median']:.2f}, {turn['cpu_ratio']['median']:.2f}" if turn else "")
        lines.append(f"| {found['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def profile(found):
    """Where the CPU time goes."""
    parts = list(found[0]["shares"]) if found else []
    rows = [["", "CPU us/request", *parts]]
    rows += [[f"{row['scenario']}, {row['proxy']}", f"{row['cpu_us']:.1f}",
              *(f"{row['shares'].get(part, 0):.1%}" for part in parts)] for row in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["where the CPU time goes (perf, which costs some itself)"]
    for row in rows:
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)


def counts(found):
    """Instruction and allocation counts."""
    lines = []
    if "instructions" in found:
        lines.append("instructions (and allocations) for one operation")
        lines += [f"  {name:<28}{count['instructions']:>12,.1f}{count['allocations']:>10.2f}"
                  for name, count in found["instructions"].items()]
    if "allocations" in found:
        lines.append("the whole of rondo, for one request: allocations, frees, instructions outside the kernel")
        for name, count in found["allocations"].items():
            lines.append(f"  {name:<28}{count['allocations']:>8.3f}{count['frees']:>8.3f}{count['instructions']:>12,.0f}")
            lines += [f"      {each:.3f} from {caller}" for caller, each in count["callers"].items()]
    return "\n".join(lines)


def _row(proxy, bulk):
    return [
        proxy["name"],
        _spread(proxy["rate"], 0),
        _spread(proxy["rate_ratio"], 2),
        _milliseconds(proxy["p50_us"]),
        _milliseconds(proxy["p99_us"]),
        _spread(proxy["cpu_s"], 3 if bulk else 1),
        _spread(proxy["cpu_ratio"], 2),
        f"{proxy['cores_used']['median']:.2f}",
        f"{proxy['peak_memory_mb']:.1f}",
        f"{proxy['switches_per_1000_requests']['median']:,.0f}",
    ]


def _spread(value, digits):
    middle, low, high = (f"{value[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}..{high})"


def _quartiles(value):
    return f"{value['median']:.2f} ({value['low']:.2f}..{value['high']:.2f})"


def _milliseconds(value):
    return f"{value['median'] / 1000:.2f}" if value["median"] else "-"
