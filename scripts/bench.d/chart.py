"""Draws the results as an SVG bar chart, readable on a light and on a dark page.

Two bars side by side for each proxy and scenario: throughput and CPU, both as ratios to nginx with one worker (1, the
vertical line). `scripts/bench --from results.json --svg chart.svg` draws from results that are there.
"""

from html import escape

ROWS = ("keep-1", "keep-64", "keep-1000", "close-64", "16k", "1m", "upload", "chunked", "log")
# In bulk the tuned ones stand beside the plain: they are the peers to beat.
PROXIES = ("rondo", "nginx", "nginx 64k", "nginx, log in blocks", "haproxy", "haproxy splice", "pen")
LEGEND = (("rondo", "rondo"), ("nginx", "nginx"), ("nginx 64k", "nginx, tuned"), ("haproxy", "haproxy"),
          ("haproxy splice", "haproxy splice"), ("pen", "pen"))
WIDTH, LABELS, GAP = 880, 210, 36
BAR, BETWEEN = 9, 16
COLUMN = (WIDTH - LABELS - 2 * GAP) // 2

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a; }
  .title { font-weight: 600; font-size: 13px; fill: #1f2328; }
  .value { font-size: 10px; }
  .line { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 2 2; }
  .rondo { fill: #d9480f; } .nginx { fill: #848d97; } .nginx-64k, .nginx-log-in-blocks { fill: #a8a295; }
  .haproxy { fill: #4c7fb8; } .haproxy-splice { fill: #6aa3b5; } .pen { fill: #7a9a5b; }
  text.rondo { font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    text { fill: #9da7b3; } .title { fill: #e6edf3; } .rondo { fill: #ff8a4c; }
  }
"""


def draw(results):
    scenarios = [s for name in ROWS for s in results["scenarios"] if s["name"] == name and s["proxies"]]
    columns = (("rate_ratio", "throughput, longer is better"), ("cpu_ratio", "CPU for the same work, shorter is better"))
    scales = {}
    for key, _ in columns:
        values = [_ratio(p, key) for s in scenarios for p in s["proxies"] if p["name"] in PROXIES]
        # A peer far off would make all others dots: its bar is cut, and its figure says so.
        scales[key] = min(max([1.5, *values]), 4.0)
    parts, top = [], 62
    for number, (_, title) in enumerate(columns):
        parts.append(_text(_left(number), 20, title, "title"))
        parts.append(_text(_left(number), 36, "nginx, one worker = 1"))
    for number, (proxy, label) in enumerate(LEGEND):
        x, y = 4 + 96 * (number // 3), 6 + 15 * (number % 3)
        parts.append(f'<rect class="{_kind(proxy)}" x="{x}" y="{y}" width="9" height="9"/>')
        parts.append(_text(x + 14, y + 9, label))
    lines = len(parts)
    for scenario in scenarios:
        shown = [p for name in PROXIES for p in scenario["proxies"] if p["name"] == name]
        height = len(shown) * (BAR + 2)
        for line, part in enumerate(_two_lines(scenario["title"])):
            parts.append(_text(4, top + 10 + 14 * line, part))
        for number, (key, _) in enumerate(columns):
            for place, proxy in enumerate(shown):
                ratio = _ratio(proxy, key)
                length = max(1, round(min(ratio, scales[key]) / scales[key] * (COLUMN - 40)))
                y = top + place * (BAR + 2)
                parts.append(f'<rect class="{_kind(proxy["name"])}" x="{_left(number)}" y="{y}" width="{length}" height="{BAR}"/>')
                parts.append(_text(_left(number) + length + 4, y + 8, f"{ratio:.2f}", f"value {_kind(proxy['name'])}"))
        top += max(height, 30) + BETWEEN
    for number, (key, _) in enumerate(columns):
        x = _left(number) + round((COLUMN - 40) / scales[key])
        # Behind the bars and their figures.
        parts.insert(lines, f'<line class="line" x1="{x}" y1="50" x2="{x}" y2="{top - BETWEEN}"/>')
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in PROXIES if name in machine["versions"])
    parts.append(_text(4, top + 8, f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel'].split('-')[0]}; {versions}", "value"))
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 20}" width="{WIDTH}" height="{top + 20}" role="img" '
            f'aria-label="Throughput and CPU of rondo and its peers as ratios to nginx">\n<style>{STYLE}</style>\n{body}\n</svg>\n')


def _kind(name):
    return name.replace(",", "").replace(" ", "-")


def _ratio(proxy, key):
    return proxy[key]["median"]


def _left(column):
    return LABELS + column * (COLUMN + GAP)


def _text(x, y, text, kind=""):
    return f'<text x="{x}" y="{y}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _two_lines(title):
    """Broken after the last comma that leaves the first line short enough."""
    commas = [place for place in range(len(title)) if title[place:place + 2] == ", " and place <= 32]
    if len(title) <= 32 or not commas:
        return [title]
    return [title[:commas[-1] + 1], title[commas[-1] + 2:]]
