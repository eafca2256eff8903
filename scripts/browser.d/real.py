"""The program itself for scripts/browser: rondo over three applications, one of which ends and comes back."""

import json

from kit import process
from kit.origin import Origin
from kit.rondo import Rondo, entry

TOKEN = "a-token"
# Asked often, so that what ends and comes back is seen within a second or two.
CHECKS = {"kind": "http", "interval": "1s", "down_interval": "1s", "timeout": "500ms"}


class Real:
    """A context manager; its attributes are the options of scripts/browser."""

    def __init__(self, program=None):
        self.program, self.token, self.backend = program, TOKEN, "app-2"

    def __enter__(self):
        self.session = process.session()
        self.session.__enter__()
        self.applications = [Origin(f"app-{number}") for number in (1, 2, 3)]
        self.path = process.write("browser.json", self.text(self.applications))
        self.rondo = Rondo(program=self.program, path=self.path)
        self.url = f"http://127.0.0.1:{self.rondo.admin_port()}/"
        self.through = f"http://127.0.0.1:{self.rondo.port}/"
        return self

    def __exit__(self, *failure):
        return self.session.__exit__(*failure)

    def text(self, applications, **more):
        return json.dumps({
            "proxy": {"port": 0, "address": "127.0.0.1", "access_log": False},
            "backends": [entry(each, **more) for each in applications],
            "health_check": CHECKS,
            "admin": {"address": "127.0.0.1:0", "token": TOKEN},
        }, indent=2)

    def stop(self):
        self.applications[1].kill()

    def start(self):
        self.applications[1].start()

    def change(self):
        self.path.write_text(self.text(self.applications, max_connections=50), encoding="utf-8")

    def broken(self):
        self.path.write_text('{"proxy": {"port": 0},\n "backends": [}', encoding="utf-8")

    def end(self):
        self.rondo.process.kill()
        self.rondo.process.wait()
