"""Draws the results as an SVG bar chart, readable on a light and on a dark page.

Two bars side by side for each proxy and scenario: throughput and CPU, both as ratios to nginx with one worker (1, the
vertical line). `scripts/bench --from results.json --svg chart.svg` draws from results that are there.
"""

from html import escape

ROWS = ("keep-1", "keep-64", "keep-1000", "close-64", "16k", "1m", "upload", "chunked", "log")
PROXIES = ("rondo", "nginx", "haproxy", "pen")
WIDTH, LABELS, GAP = 880, 210, 36
BAR, BETWEEN = 9, 16
COLUMN = (WIDTH - LABELS - 2 * GAP) // 2

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a; }
  .title { font-weight: 600; font-size: 13px; fill: #1f2328; }
  .value { font-size: 10px; }
  .line { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 2 2; }
  .rondo { fill: #d9480f; } .nginx { fill: #8c959f; } .haproxy { fill: #4c7fb8; } .pen { fill: #7a9a5b; }
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
    for number, proxy in enumerate(PROXIES):
        parts.append(f'<rect class="{proxy}" x="{number * 52 + 4}" y="12" width="9" height="9"/>')
        parts.append(_text(number * 52 + 16, 20, proxy))
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
                parts.append(f'<rect class="{proxy["name"]}" x="{_left(number)}" y="{y}" width="{length}" height="{BAR}"/>')
                parts.append(_text(_left(number) + length + 4, y + 8, f"{ratio:.2f}", f"value {proxy['name']}"))
        top += max(height, 30) + BETWEEN
    for number, (key, _) in enumerate(columns):
        x = _left(number) + round((COLUMN - 40) / scales[key])
        parts.append(f'<line class="line" x1="{x}" y1="50" x2="{x}" y2="{top - BETWEEN}"/>')
    machine = results["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in PROXIES if name in machine["versions"])
    parts.append(_text(4, top + 8, f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel'].split('-')[0]}; {versions}", "value"))
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 20}" width="{WIDTH}" height="{top + 20}" role="img" '
            f'aria-label="Throughput and CPU of rondo and its peers as ratios to nginx">\n<style>{STYLE}</style>\n{body}\n</svg>\n')


def _ratio(proxy, key):
    return proxy[key]["median"]


def _left(column):
    return LABELS + column * (COLUMN + GAP)


def _text(x, y, text, kind=""):
    return f'<text x="{x}" y="{y}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _two_lines(title):
    """Broken after a comma near the middle."""
    if len(title) <= 32:
        return [title]
    commas = [place for place, letter in enumerate(title) if letter == "," and title[place + 1:place + 2] == " "]
    place = min(commas, key=lambda p: abs(p - len(title) / 2), default=None)
    return [title] if place is None else [title[:place + 1], title[place + 2:]]
