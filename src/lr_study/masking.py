"""Passwords in addresses: found wherever they stand in a text, and replaced by ***.

It stands here and not in an app, for what is saved and said of a sweep has the app's addresses in it.
"""

import logging
import re
from typing import Any

MASK = "***"
# An address goes on to the next white space: a password may hold any other character, also those that end an address
# by the rules, since people don't escape them.
_ADDRESS = re.compile(r"(https?)?://(\S+)", re.IGNORECASE)
# A password with white space in it: what follows user and colon is no port, and an @ comes in the same line.
_SPACED = re.compile(r"(://[^\s:/?#@]*:)(?!\d+(?:[\s/?#,;)\]}'\"]|$))[^\s@]+[ \t][^@\n]{0,200}@(?=\S)")
_KEY = r"[\w.%-]*(?:password|passwd|passphrase|pwd|token|secret|api_?key|credential|signature)[\w.-]*|pass|auth|sig"
# `password=…` after ? or &; %3D and %3B are the = and ; of an ODBC connection's own string inside an address. Marks
# that close a bracket or a quotation around the address are left.
_QUERY = re.compile(
    rf"((?:[?&;]|%3[BF]|%26)(?:{_KEY})(?:=|(%3D)))(?(2).*?(?=%3B|%26|&|['\")\]}}>,;]*$)|.*?(?=&|['\")\]}}>,;]*$))",
    re.IGNORECASE,
)
# host:port/… or host/…: what follows is a path or a query, with no user before it.
_HOST_FIRST = re.compile(r"[^:/?#]*:\d+(?:[/?#]|$)|[^:]*[/?#]")


def mask_passwords(text: str) -> str:
    """`text` with the password or token of each address in it replaced by ***; applying it again changes nothing.

    Where it is in doubt whether something is a password, it is taken for one.
    """
    if "://" not in text:
        return text
    return _ADDRESS.sub(_masked_address, _SPACED.sub(rf"\1{MASK}@", text))


def _masked_address(match: re.Match[str]) -> str:
    web, given = match.groups()
    address = _QUERY.sub(rf"\1{MASK}", given)
    if "@" in given and "@" not in address and not _HOST_FIRST.match(given):
        address = given  # its ? stands in the password of a user
    # The last @, for a password may have some in it, too, and what follows the first slash may belong to it.
    userinfo, at, rest = address.rpartition("@")
    user, _, password = userinfo.partition(":")
    if password:
        userinfo = f"{user}:{MASK}"
    elif web and userinfo and not re.search("[/?#]", userinfo):
        userinfo = MASK  # http://token@host; a database's user alone is no secret
    return f"{web or ''}://{userinfo}{at}{rest}"


def mask_tree(tree: Any) -> Any:
    """Plain data with `mask_passwords` applied to every text in it."""
    if isinstance(tree, dict):
        return {key: mask_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [mask_tree(value) for value in tree]
    return mask_passwords(tree) if isinstance(tree, str) else tree


class MaskingFormatter(logging.Formatter):
    """A formatter for `logging` whose messages and tracebacks have no passwords in them."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter`'s."""
        return mask_passwords(super().format(record))
