"""Standard streams that can't stop a command, whatever they are connected to.

- A stream that is closed (`>&-`, a daemon's) becomes the null device.
- A stream whose reader has gone (`| head`, a closed terminal) becomes the null device at the next write, and the
  command goes on: its results are in files and in MLflow.
- Another error of a write, such as a full disk, is remembered, so that the command can say so at its end.
- A character that the stream's encoding lacks is written as a stand-in: `±` as `+-`.
"""

import codecs
import errno
import io
import os
import sys
import unicodedata
from typing import Any

# What this project prints beyond ASCII, save Greek letters, which are spelt.
STAND_INS = {
    **{"±": "+-", "×": "x", "†": "+", "…": "...", "–": "-", "−": "-", "≈": "~", "≤": "<=", "≥": ">=", "≠": "!="},
    **{"∞": "inf", "√": "sqrt", "·": "*", "→": "->", "²": "^2", "‘": "'", "’": "'", "“": '"', "”": '"'},
}
# Errors of a write that mean that nobody reads any more.
READER_IS_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
_lost: list[OSError] = []


def make_safe() -> None:
    """Make this process's standard streams safe; calling it again changes nothing."""
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        elif stream is getattr(sys, f"__{name}__") and not _is_safe(stream):  # another one is somebody's own
            stream.flush()
            setattr(sys, name, _safe(stream))
            setattr(sys, f"__{name}__", getattr(sys, name))


def write_error() -> OSError | None:
    """Return why output of this process was lost, though somebody would have read it; None where nothing was."""
    return _lost[0] if _lost else None


def in_encoding(text: str, encoding: str) -> str:
    """Return `text` with stand-ins for what `encoding` lacks: for a table, whose columns are as wide as their text."""
    return text.encode(encoding, "stand-ins").decode(encoding)


class _SafeFile(io.FileIO):
    """A descriptor that becomes the null device where it can't be written."""

    def write(self, data: Any) -> int:
        """Write `data`, or drop it where it can't be written."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in READER_IS_GONE:
                _lost.append(error)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(memoryview(data).cast("B"))


def _is_safe(stream: Any) -> bool:
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), _SafeFile)


def _safe(stream: Any) -> io.TextIOWrapper:
    """A stream on the same descriptor, with the same encoding and buffers."""
    file: Any = _SafeFile(stream.fileno(), "w", closefd=False)
    buffer = file if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(file)  # not with `python -u`
    options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(buffer, stream.encoding, errors="stand-ins", **options)


def _open_if_closed(descriptor: int) -> None:
    """Open the null device under `descriptor`, which the next file that is opened would get otherwise."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks; an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(STAND_INS.get(character) or _in_ascii(character) for character in lacking), error.end


def _in_ascii(character: str) -> str:
    """Spell a Greek letter, take the accents from another letter, and write `?` for what is left."""
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return name.split()[-1].lower()
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


codecs.register_error("stand-ins", _stand_in)
