#!/usr/bin/env python3
"""Plays rondo's admin interface over invented backends, for work on the page.

    mock.py serve PAGE CSP [--port N] [--backends N] [--token T] [--hostile] [--calm] [--no-token-key]
    mock.py tell URL stop|start NAME          an origin is gone, or is back
    mock.py tell URL file EDITION             what the next reload finds: same, changed, broken, restart
    mock.py tell URL fail|work                requests get lost (502), or do not

Prints "listening on URL" when it serves.
"""
import argparse, html, json, random, sys, threading, time, urllib.parse, urllib.request
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

R = random.Random(7)
LOCK = threading.RLock()
now_ms = lambda: int(time.time() * 1000)
ENTRY = {"url": None, "name": None, "weight": 1, "backup": False, "max_connections": None, "check": True,
         "lenient": False, "send_proxy_protocol": False, "IsDead": False, "each_address": False}
SPEED_UP = 1


class Backend:
    def __init__(self, entry, source="file"):
        self.entry = {**ENTRY, **entry}
        self.name = entry["name"]
        self.source = source
        self.health, self.operator = "up", "enabled"
        self.since, self.reason = now_ms() - R.randrange(60_000, 80_000_000), "start"
        self.origin_up = True
        self.in_flight = 0
        self.total = self.failed = self.retries = 0
        self.failures, self.answers = {}, {}
        self.history = deque(maxlen=60)
        self.minute = deque([(0, 0, 0, 0)] * 12, maxlen=12)
        self.latency = R.uniform(4, 30)
        self.next_check = time.time() + R.uniform(0, 5)
        self.check = dict(kind="tcp", at_unix_ms=now_ms() - 3000, took_ms=0.4, passed=True, reason="connected")
        self.step = [0, 0, 0, 0]
        self.rps = 0.0
        self.trust = 100

    @property
    def state(self):
        if self.operator == "disabled": return "disabled"
        if self.operator == "draining": return "draining"
        return self.health

    def eligible(self):
        return self.state == "up" and self.entry["weight"] > 0


class World:
    def __init__(self, options):
        self.o = options
        self.t0 = now_ms() - 266_000_000
        self.file = "same"
        self.failing = False
        self.warnings = []
        self.decisions = deque(maxlen=512)
        self.top = dict(total=0, failed=0, retries=0, failures={}, answers={}, history=deque(maxlen=60),
                        minute=deque([(0, 0, 0, 0)] * 12, maxlen=12), step=[0, 0, 0, 0], rps=0.0)
        self.backends = [Backend(e) for e in entries(options)]
        self.rate = 1240 if options.backends <= 8 else 61 * options.backends
        if not options.calm and options.backends > 8:
            for i, (health, why) in {17: ("down", "connect failed: connection refused"), 203 % options.backends: ("down", "check failed: no response in 5 s"),
                                     91 % options.backends: ("ejected", "5 bad answers in a row: status 503"), 44: ("down", "connect timed out")}.items():
                b = self.backends[i]; b.health, b.reason, b.since, b.origin_up = health, why, now_ms() - R.randrange(3000, 900_000), False
            self.backends[5].operator, self.backends[5].reason, self.backends[5].since = "draining", "admin interface", now_ms() - 9000
            self.backends[6].operator, self.backends[6].reason = "disabled", "admin interface"
            self.backends[9].trust = 40
        if options.hostile:
            self.backends[1].health, self.backends[1].origin_up = "down", False
            self.backends[1].reason = 'check failed: <script>alert(1)</script> "><img src=x onerror=alert(2)> \u202eevil\u0000\n' + "x" * 300
            self.warnings.append('last reload failed: <b onclick="alert(3)">config.json</b>:3:15: "prot"')
        for _ in range(61 * 5):
            self.tick(live=False)

    def eligible(self):
        group = [b for b in self.backends if b.eligible() and not b.entry["backup"]]
        return group or [b for b in self.backends if b.eligible()]

    def shares(self):
        group = self.eligible()
        whole = sum(b.entry["weight"] * b.trust for b in group) or 1
        return {b.name: (100 * b.entry["weight"] * b.trust / whole if b in group else 0) for b in self.backends}

    ticks = 0
    def tick(self, live=True):
        """One second."""
        with LOCK:
            self.ticks += 1
            wave = 1 + .18 * __import__("math").sin(self.ticks / 37) + R.uniform(-.06, .06)
            rate = self.rate * wave
            shares = self.shares()
            n_all = 0
            for b in self.backends:
                n = int(max(0, R.gauss(rate * shares[b.name] / 100, (rate * shares[b.name] / 100) ** .5 * .6)))
                n_all += n
                b.step[0] += n
                b.total += n
                bad5 = n // 400 if b.latency > 24 else 0
                ok = n - bad5
                for k, v in (("2xx", ok * 96 // 100), ("3xx", ok * 3 // 100), ("4xx", ok - ok * 96 // 100 - ok * 3 // 100), ("5xx", bad5)):
                    if v: b.answers[k] = b.answers.get(k, 0) + v; self.top["answers"][k] = self.top["answers"].get(k, 0) + v
                b.step[3] += bad5; self.top["step"][3] += bad5
                if b.state == "draining":
                    b.in_flight = max(0, b.in_flight - max(1, b.in_flight // 5)) if live else 14
                elif b.state == "up":
                    b.in_flight = max(0, int(n * b.latency / 1000 + R.uniform(-1, 2)))
                    if (m := b.entry["max_connections"]) is not None: b.in_flight = min(m, b.in_flight)
                else:
                    b.in_flight = max(0, b.in_flight - 3)
                if b.trust < 100 and live: b.trust = min(100, b.trust + 2)
                if not b.origin_up and b.health == "up" and live:
                    self.set_health(b, "down", "connect failed: connection refused")
                    self.fail(b, "connect_failed", 3)
                if b.origin_up and b.health == "down" and live and time.time() > b.next_check:
                    self.set_health(b, "up", "check passed")
                if live and time.time() > b.next_check:
                    b.next_check = time.time() + (2 if b.health == "down" else 10)
                    up = b.origin_up
                    b.check = dict(kind="tcp", at_unix_ms=now_ms(), took_ms=round(R.uniform(.2, 1.2), 3), passed=up,
                                   reason="connected" if up else b.reason.split(": ", 1)[-1] if self.o.hostile else "connection refused")
            if self.failing and live:
                self.top["failed"] += 3; self.top["step"][1] += 3
                self.top["failures"]["head_timed_out"] = self.top["failures"].get("head_timed_out", 0) + 3
            self.top["step"][0] += n_all; self.top["total"] += n_all
            if self.ticks % 5 == 0:
                for it in [*self.backends]:
                    it.history.append(it.step[0]); it.minute.append(tuple(it.step)); it.rps = it.step[0] / 5; it.step = [0, 0, 0, 0]
                t = self.top; t["history"].append(t["step"][0]); t["minute"].append(tuple(t["step"])); t["rps"] = t["step"][0] / 5; t["step"] = [0, 0, 0, 0]
            for _ in range(2):
                self.decide()

    def set_health(self, b, health, reason):
        b.health, b.reason, b.since = health, reason, now_ms()

    def fail(self, b, kind, n):
        b.failed += n; b.failures[kind] = b.failures.get(kind, 0) + n; b.step[1] += n
        self.top["retries"] += n; self.top["step"][2] += n

    def decide(self):
        group = self.eligible()
        listed = self.backends[:16]
        kind = R.random()
        tries, t = [], R.uniform(.05, .4)
        head = t
        dead = next((b for b in self.backends if b.health == "down"), None)
        error, status = None, 200
        path = R.choice(["/", "/api/v1/orders?page=3", "/assets/app.css", "/login", "/api/v1/search?q=round+robin+load+balancer+for+linux"])
        method = R.choice(["GET"] * 5 + ["POST", "HEAD"])
        if self.o.hostile and kind < .3: path = '/<script>alert(1)</script>"\'\\x00\\x1b[31m'
        if kind < .12 and dead:
            took = R.uniform(.1, .9)
            tries.append(dict(backend=dead.name, rule="its turn", outcome="connect failed", status=None, began_ms=round(t, 3), took_ms=round(took, 3))); t += took
        if not group:
            error, status = "no backend may take it", 503
            connecting = response = body = None
        else:
            b = R.choice(group[:16] if len(group) > 16 else group)
            took = R.uniform(.5, 2) * b.latency
            connecting, body = t - head + .3, R.uniform(.05, 8)
            if .12 < kind < .2 or self.failing:
                outcome, st = R.choice([("no response head in time", 504), ("its answer broke off", 200), ("ended before it answered", 502), ("answered", 500)])
                if outcome != "answered": error = f"{b.name}: {outcome}"
                else: error = "status 500"
                status = st
                if outcome in ("no response head in time",): took = 60000.
                tries.append(dict(backend=b.name, rule="its turn", outcome=outcome, status=st if outcome == "answered" else None, began_ms=round(t, 3), took_ms=round(took, 3)))
                if st in (502, 504): body = None
            else:
                status = R.choice([200] * 8 + [304, 404, 302])
                tries.append(dict(backend=b.name, rule="its turn", outcome="answered", status=status, began_ms=round(t, 3), took_ms=round(took, 3)))
            t += took
            response = took - .3
        total = t + (body or .02)
        seen = {x["backend"]: x for x in tries}
        def verdict(b):
            if tries and b.name == tries[-1]["backend"]: return "chosen"
            if b.name in seen: return "tried already"
            return {"up": "backup" if b.entry["backup"] and b not in group else "eligible"}.get(b.state, b.state)
        cands = [dict(backend=b.name, verdict=verdict(b)) for b in listed]
        others = {}
        for b in self.backends[16:]:
            v = verdict(b)
            if v in ("chosen", "tried already"): cands.append(dict(backend=b.name, verdict=v))
            else: others[v] = others.get(v, 0) + 1
        r3 = lambda x: None if x is None else round(x, 3)
        self.decisions.appendleft(dict(at_unix_ms=now_ms() - int(total), request_id="%032x" % R.getrandbits(128), request=f"{method} {path} HTTP/1.1"[:64],
            client=R.choice(["192.0.2.7", "198.51.100.23", "2001:db8::17", "203.0.113.200"]), status=status, error=error, candidates=cands[:16], others=others,
            tries=tries, tries_more=0, request_head_ms=r3(head), queued_ms=None, connecting_ms=r3(connecting), response_head_ms=r3(response), response_body_ms=r3(body), total_ms=r3(total)))

    def status(self, history=True):
        with LOCK:
            shares, t = self.shares(), self.top
            minute = lambda m: dict(zip(("requests", "failed", "retries", "answers_5xx"), map(sum, zip(*m))))
            sent = sum(minute(b.minute)["requests"] for b in self.backends)
            def traffic(total, rps, hist, failed, failures, answers, retries, m, p50, p99):
                d = dict(requests=total, requests_per_second=rps, history=list(hist), failed=failed, failures=failures, answers=answers, retries=retries,
                         last_minute=minute(m), head_p50_ms=p50, head_p99_ms=p99)
                if not history: del d["history"]
                return d
            backends = []
            for b in self.backends:
                m = minute(b.minute)
                some = m["requests"] > 0
                wob = R.uniform(.95, 1.05)
                backends.append(dict(name=b.name, url=b.entry["url"], source=b.source, state=b.state, since_unix_ms=b.since, reason=b.reason, health=b.health,
                    operator=b.operator, backup=b.entry["backup"], weight=b.entry["weight"], trust_percent=b.trust, max_connections=b.entry["max_connections"],
                    in_flight=b.in_flight, idle_connections=min(64, b.in_flight + 3), addresses=[b.entry["url"].split("//")[1].split("/")[0].replace("localhost", "127.0.0.1")],
                    share_wanted_percent=round(shares[b.name], 2), share_got_percent=round(100 * m["requests"] / sent, 2) if sent else None,
                    check=b.check if b.entry["check"] else None,
                    traffic=traffic(b.total, b.rps, b.history, b.failed, b.failures, b.answers, 0, b.minute, round(b.latency * .8 * wob, 1) if some else None, round(b.latency * 4.1 * wob, 1) if some else None)))
            states = {s: sum(b.state == s for b in self.backends) for s in ("up", "down", "ejected", "draining", "disabled")}
            failed = minute(t["minute"])["failed"] + t["step"][1]
            level = "trouble" if failed or not self.eligible() else "warning" if states["down"] or states["ejected"] or self.warnings else "ok"
            line = f"{states['up']} of {len(self.backends)} backend{'s' if len(self.backends) != 1 else ''} up" + "".join(f", {n} {s}" for s, n in states.items() if n and s != "up")
            line += f"; {t['rps']:,.0f} requests/s; {failed:,} failed in the last minute"
            tr = traffic(t["total"], t["rps"], t["history"], t["failed"], t["failures"], t["answers"], t["retries"], t["minute"], 11.2, 87.4)
            tr["last_minute"]["failed"] = failed
            ex = sum(b.in_flight for b in self.backends)
            return dict(version="0.1.0", state="running", level=level, summary=line, warnings=self.warnings, now_unix_ms=now_ms(), started_unix_ms=self.t0,
                        config_file="config.json", listeners=["[::]:8080"], mode="http", method="round_robin", workers=2, token_set=bool(self.o.token),
                        traffic=tr, connections=dict(max=10000, open=ex + 812 + 24 + 3, idle=812, exchanging=ex, tunnels=24, closing=3),
                        memory=dict(resident_bytes=5_411_000, bound_bytes=41_900_000), backends=backends)

    def entry(self, b):
        return dict(b.entry)

    def change(self, name, change, dry):
        """Applies `change` (a function of the world) and says what it did."""
        before = self.shares()
        backup = [(b, b.operator, b.reason, b.since, dict(b.entry), b.source) for b in self.backends]
        order = list(self.backends)
        what, found = change()
        after = self.shares()
        answer = dict(dry_run=dry, name=name, change=what, in_flight=found.in_flight if found else 0, eligible=len(self.eligible()),
            shares=[dict(name=n, before_percent=round(before.get(n, 0), 2), after_percent=round(after.get(n, 0), 2)) for n in {**before, **after} if abs(before.get(n, 0) - after.get(n, 0)) > 1e-9])
        if dry:
            self.backends = order
            for b, b.operator, b.reason, b.since, b.entry, b.source in backup: pass
        return answer


def entries(options):
    n = options.backends
    if n <= 8:
        names = ["app-1", "app-2", "app-3", "app-4", "e", "f", "g", "h"][:n]
        out = [dict(url=f"http://10.0.0.{11 + i}:8081", name=x) for i, x in enumerate(names)]
        if n > 3: out[3]["backup"] = False; out[3]["weight"] = 2; out[2]["max_connections"] = 200
    else:
        out = [dict(url=f"http://10.0.{i // 200}.{i % 200 + 10}:8080", name=f"shop-{'abcdef'[i % 6]}-{i:03}", weight=1 + (i % 7 == 0)) for i in range(n)]
        out[3]["backup"] = True
    if options.hostile:
        out[0]["name"] = '"><img src=x onerror=alert(1)>'
        out[1]["name"] = "</td></table><script>alert(document.domain)</script>"
        out[2]["name"] = "a/b%2F..?x#y [::1]:8081" + "W" * 40
        out[2]["url"] = "javascript:alert(1)//"
    return out


class Refused(Exception):
    def __init__(self, status, error, file=None, line=None, column=None):
        self.status, self.body = status, dict(error=error, file=file, line=line, column=column)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "rondo-mock"
    def log_message(self, *_): pass
    def do_GET(self): self.all()
    do_POST = do_PUT = do_DELETE = do_GET

    def all(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with LOCK:
                status, answer, kind = self.route(body)
        except Refused as refused:
            status, answer, kind = refused.status, refused.body, "application/json"
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == 401: self.send_header("WWW-Authenticate", "Bearer")
        if kind.startswith("text/html"):
            self.send_header("Content-Security-Policy", open(OPTIONS.csp).read().strip())
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("X-Frame-Options", "DENY")
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(data)

    def route(self, body):
        w = WORLD
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        path, J = url.path, "application/json"
        if path == "/mock":
            words = body.decode().split("\n")
            if words[0] in ("stop", "start"):
                b = next(b for b in w.backends if b.name == words[1]); b.origin_up = words[0] == "start"; b.next_check = 0
            elif words[0] == "file": w.file = words[1]
            elif words[0] in ("fail", "work"): w.failing = words[0] == "fail"
            return 200, {}, J
        if self.command in ("GET", "HEAD"):
            if path == "/":
                return 200, open(OPTIONS.page).read().replace("<!--TABLE-->", table(w.status()), 1).encode(), "text/html; charset=utf-8"
            if path == "/status": return 200, w.status(query.get("history") != "0"), J
            if path == "/decisions":
                found = list(w.decisions)
                if query.get("only") == "errors": found = [d for d in found if d["error"]]
                if query.get("only") == "retries": found = [d for d in found if len(d["tries"]) > 1]
                return 200, found[:int(query.get("limit", 512))], J
            if path == "/config":
                return 200, {"proxy": {"port": 8080, "address": None, "mode": "http", "workers": 2, "max_connections": 10000, "via": True},
                             "balance": {"method": "round_robin", "tries": 3}, "backends": [w.entry(b) for b in w.backends],
                             "timeouts": {"connect": "5s", "response_head": "60s"}, "admin": {"address": "127.0.0.1:9090", "hosts": []}}, J
            raise Refused(404, "there is nothing here")
        if self.headers.get("Origin") and self.headers["Origin"] != f"http://{self.headers['Host']}":
            raise Refused(403, "the request comes from a page of another origin")
        if OPTIONS.token and self.headers.get("Authorization") != "Bearer " + OPTIONS.token:
            raise Refused(401, "the token is missing or wrong")
        if not OPTIONS.token and self.command in ("PUT", "DELETE"):
            raise Refused(403, "adding, changing and removing backends needs admin.token, and none is set")
        dry = query.get("dry_run") == "1"
        if path == "/reload": return self.reload(dry)
        parts = path.split("/")
        if len(parts) < 3 or parts[1] != "backends": raise Refused(404, "there is nothing here")
        name = urllib.parse.unquote(parts[2])
        found = next((b for b in w.backends if b.name == name), None)
        if self.command == "PUT":
            entry = json.loads(body)
            fresh = {**ENTRY, **{k: v for k, v in entry.items()}, "name": name}
            if not isinstance(fresh["url"], str) or not fresh["url"].startswith("http://"):
                raise Refused(422, f'url must be "http://host[:port][/base/path]", not {json.dumps(fresh["url"])}', None, 1, 9)
            if not isinstance(fresh["weight"], int) or not 0 <= fresh["weight"] <= 1000:
                raise Refused(422, f"weight must be 0 to 1000, not {fresh['weight']}", None, 1, 30)
            def put():
                if found:
                    found.entry, found.source = fresh, "admin"
                    return "change", found
                new = Backend(fresh, "admin"); new.since, new.reason = now_ms(), "admin interface"
                w.backends = w.backends + [new]
                return "add", new
            return (200 if found else 201), w.change(name, put, dry), J
        if not found: raise Refused(404, f"there is no backend {json.dumps(name)}")
        if self.command == "DELETE":
            def delete():
                w.backends = [b for b in w.backends if b is not found]
                return "remove", found
            return 200, w.change(name, delete, dry), J
        wish = {"drain": "draining", "disable": "disabled", "enable": "enabled"}.get(parts[3])
        if not wish: raise Refused(404, "there is nothing here")
        def operate():
            if found.operator == wish: return "none", found
            found.operator, found.reason, found.since = wish, "admin interface", now_ms()
            return parts[3], found
        return 200, w.change(name, operate, dry), J

    def reload(self, dry):
        w = WORLD
        base = dict(dry_run=dry, file="config.json", added=[], removed=[], changed=[], kept=len(w.backends), settings=[], restart=[],
                    clears=[b.name for b in w.backends if b.source == "admin"], moved_percent=None, warnings=[])
        if w.file == "broken": raise Refused(422, 'proxy.prot is not a known key; did you mean "port"?', "config.json", 3, 15)
        if w.file == "changed":
            last = w.backends[-1]
            base.update(added=["app-new"], removed=[last.name], changed=[dict(name=w.backends[0].name, keys=[dict(key="weight", **{"from": w.backends[0].entry["weight"], "to": 3})])],
                        kept=len(w.backends) - 2, settings=[dict(key="timeouts.connect", **{"from": "5s", "to": "3s"}), dict(key="balance.tries", **{"from": 3, "to": 2})])
        if w.file == "restart":
            base.update(restart=[dict(key="proxy.workers", **{"from": 2, "to": 4})])
            if not dry: raise Refused(409, "proxy.workers needs a restart", "config.json", 2, 20)
        if not dry and w.file == "changed":
            w.backends[0].entry["weight"] = 3
            w.backends = w.backends[:-1] + [Backend(dict(url="http://10.0.9.9:8080", name="app-new"))]
            w.file = "same"
        if not dry:
            for b in w.backends: b.source = "file"
        return 200, base, "application/json"


def table(s):
    e = lambda x: html.escape(str(x), quote=True)
    head = ["Backend", "State", "Why", "Weight", "In flight", "Requests/s", "Share wanted %", "Share got %", "Failed, 1 min", "p50 ms", "p99 ms", "Last check"]
    rank = ["down", "ejected", "draining", "disabled", "up"]
    rows = []
    for b in sorted(s["backends"], key=lambda b: rank.index(b["state"]))[:1000]:
        c, t = b["check"], b["traffic"]
        dash = lambda v: "-" if v is None else v
        cells = [b["state"], b["reason"], b["weight"], b["in_flight"], t["requests_per_second"], b["share_wanted_percent"], dash(b["share_got_percent"]),
                 t["last_minute"]["failed"], dash(t["head_p50_ms"]), dash(t["head_p99_ms"]), "-" if c is None else c["reason"]]
        rows.append(f'<tr class="{b["state"]}"><th scope="row">{e(b["name"])}</th>' + "".join(f"<td>{e(c)}</td>" for c in cells) + "</tr>")
    return f'<p>{e(s["summary"])}</p><table><thead><tr>' + "".join(f'<th scope="col">{h}</th>' for h in head) + "</tr></thead><tbody>" + "".join(rows) + "</tbody></table>"


if __name__ == "__main__":
    if sys.argv[1:2] == ["tell"]:
        urllib.request.urlopen(urllib.request.Request(sys.argv[2].rstrip("/") + "/mock", "\n".join(sys.argv[3:]).encode(), method="POST")).read()
        sys.exit()
    p = argparse.ArgumentParser()
    p.add_argument("verb"); p.add_argument("page"); p.add_argument("csp")
    p.add_argument("--port", type=int, default=0); p.add_argument("--backends", type=int, default=4)
    p.add_argument("--token"); p.add_argument("--hostile", action="store_true"); p.add_argument("--calm", action="store_true")
    OPTIONS = p.parse_args()
    WORLD = World(OPTIONS)
    server = ThreadingHTTPServer(("127.0.0.1", OPTIONS.port), Handler)
    server.daemon_threads = True
    def run():
        while True:
            time.sleep(1); WORLD.tick()
    threading.Thread(target=run, daemon=True).start()
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
