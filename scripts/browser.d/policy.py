"""The Content-Security-Policy of the admin page, from the page itself.

The page is one file with one style sheet and one script in it. The policy names the two by their SHA-256, so nothing else
runs in the page, whatever a backend is called. It is kept in src/admin/page.csp, which the program sends as it stands.
"""

import base64
import hashlib
import re


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
