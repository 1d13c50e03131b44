"""Replace passwords in the addresses (URLs) of a text by ***.

It is part of the sweeper, since the configurations and messages of a sweep contain the app's addresses.
"""

import logging
import re
from typing import Any

MASK = "***"
# An address ends at the next white space. A password may contain any other character, even those that end an address
# by the rules, since people don't escape them.
_ADDRESS = re.compile(r"(https?)?://(\S+)", re.IGNORECASE)
# A password with white space in it: user and colon are not followed by a port, and an @ follows in the same line.
_SPACED = re.compile(r"(://[^\s:/?#@]*:)(?!\d+(?:[\s/?#,;)\]}'\"]|$))[^\s@]+[ \t][^@\n]{0,200}@(?=\S)")
_KEY = r"[\w.%-]*(?:password|passwd|passphrase|pwd|token|secret|api_?key|credential|signature)[\w.-]*|pass|auth|sig"
# `password=…` after ? or &. %3D and %3B are the = and ; of an ODBC connection string inside an address. Brackets and
# quotation marks that close around the address are kept.
_QUERY = re.compile(
    rf"((?:[?&;]|%3[BF]|%26)(?:{_KEY})(?:=|(%3D)))(?(2).*?(?=%3B|%26|&|['\")\]}}>,;]*$)|.*?(?=&|['\")\]}}>,;]*$))",
    re.IGNORECASE,
)
# host:port/… or host/…: a path or a query follows, and no user comes before it.
_HOST_FIRST = re.compile(r"[^:/?#]*:\d+(?:[/?#]|$)|[^:]*[/?#]")


def mask_passwords(text: str) -> str:
    """Replace the password or token of each address in `text` by ***; doing so again changes nothing.

    What may be a password is taken for one.
    """
    if "://" not in text:
        return text
    return _ADDRESS.sub(_masked_address, _SPACED.sub(rf"\1{MASK}@", text))


def _masked_address(match: re.Match[str]) -> str:
    web, given = match.groups()
    address = _QUERY.sub(rf"\1{MASK}", given)
    if "@" in given and "@" not in address and not _HOST_FIRST.match(given):
        address = given  # the ? is part of a user's password
    # The last @, since a password may contain @ and slashes.
    userinfo, at, rest = address.rpartition("@")
    user, _, password = userinfo.partition(":")
    if password:
        userinfo = f"{user}:{MASK}"
    elif web and userinfo and not re.search("[/?#]", userinfo):
        userinfo = MASK  # http://token@host; the user of a database is no secret
    return f"{web or ''}://{userinfo}{at}{rest}"


def mask_tree(tree: Any) -> Any:
    """Apply `mask_passwords` to every text in plain data."""
    if isinstance(tree, dict):
        return {key: mask_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [mask_tree(value) for value in tree]
    return mask_passwords(tree) if isinstance(tree, str) else tree


class MaskingFormatter(logging.Formatter):
    """A formatter for `logging` that masks passwords in messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Format `record`."""
        return mask_passwords(super().format(record))
