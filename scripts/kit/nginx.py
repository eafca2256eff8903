"""nginx in the foreground, in the session's folder, as origin and as proxy."""

import os

from kit.process import Server, folder, fresh_path

KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# As root the workers would change to a user who may not read the folder; a user cannot change at all.
USER = "user root;" if os.geteuid() == 0 else ""


def nginx(name, port, main, http=None):
    """`main` is the configuration outside, `http` that inside of the block http; none: there is no such block."""
    path = fresh_path("nginx.conf")
    temporary = "".join(f"{kind}_temp_path {path}.{kind}; " for kind in KINDS)
    block = "" if http is None else f"http {{\n{temporary}\n{http}\n}}\n"
    path.write_text(f"daemon off;\n{USER}\npid {path}.pid;\nerror_log stderr crit;\n{main}\n{block}")
    # It listens before it has forked its workers.
    return Server(name, ["nginx", "-p", str(folder()), "-e", "stderr", "-c", str(path)], port, settles_s=0.2)
