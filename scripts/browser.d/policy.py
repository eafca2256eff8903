"""What the program needs of the admin page beside the page itself: its Content-Security-Policy, and the page compressed.

The page is one file with one style sheet and one script in it. The policy names the two by their SHA-256, so nothing else
runs in the page, whatever a backend is called. It is kept in src/admin/page.csp, which the program sends as it stands.
"""

import base64
import hashlib
import re
import struct
import zlib


def policy(page):
    def source(tag):
        (block,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
        return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"

    return "; ".join([
        "default-src 'none'",
        f"script-src {source('script')}",
        f"style-src {source('style')}",
        "connect-src 'self'",
        "img-src data:",  # the icon, whose colour says how it goes
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]) + "\n"


def compressed(page):
    """All of the page up to the table, as a member of gzip whose data end at a byte, so that stored blocks can follow."""
    front = page.split("<!--TABLE-->")[0].encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    data = deflate.compress(front) + deflate.flush(zlib.Z_SYNC_FLUSH)
    # Without a name or a time, so that the same page gives the same bytes; then an empty last block.
    head, last = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff", b"\x01\x00\x00\xff\xff"
    return head + data + last + struct.pack("<II", zlib.crc32(front), len(front))
