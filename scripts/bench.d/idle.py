"""Holds idle connections: `idle.py PORT COUNT`. Each has had one answer, then does nothing until standard input ends.

Prints `ready` when all are open, and when asked (any line on standard input) how many still are.
"""

import resource
import socket
import sys

REQUEST = b"GET /128 HTTP/1.1\r\nHost: bench\r\n\r\n"


def main():
    port, count = int(sys.argv[1]), int(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(REQUEST)
        answer = b""
        # All of the answer is 128 bytes after the head.
        while len(answer.partition(b"\r\n\r\n")[2]) < 128:
            part = connection.recv(4096)
            if not part:
                sys.exit(f"connection {len(held) + 1} was closed before its answer ended")
            answer += part
        connection.setblocking(False)
        held.append(connection)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(sum(map(is_open, held)), flush=True)


def is_open(connection):
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


main()
