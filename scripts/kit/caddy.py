"""Caddy in the foreground, in the session's folder, as a proxy."""

from kit.process import Server, folder, write


def caddy(name, port, site):
    """`site` is what the one site says."""
    path = write("Caddyfile", f"{{\n    admin off\n}}\nhttp://127.0.0.1:{port} {{\n{site}\n}}\n")
    home = [f"{name}={folder()}" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
    return Server(name, ["env", *home, "caddy", "run", "--adapter", "caddyfile", "--config", str(path)], port)
