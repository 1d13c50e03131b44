"""The git commit of the source code, and the working tree's difference to it; nothing here raises because of git."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Seconds for one git command.
TIMEOUT_SECONDS = 10.0
# At most so many characters of the whole difference, and bytes of one new file in it.
MAX_CHARACTERS = 1_000_000
MAX_FILE_BYTES = 100_000
# Suffixes of the new files that are kept: code and its configuration. Outputs, keys and data are left out.
SUFFIXES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".py", ".pyi", ".pyx", ".toml", ".yaml", ".yml"}
EXCLUDED_FOLDERS = {".venv", "mlruns", "multirun", "node_modules", "outputs", "site-packages", "venv"}


def git_state() -> tuple[str | None, str]:
    """Return the commit of the working directory's repository, and the difference to it.

    The difference is a patch for `git apply`: changes of tracked files, and new files of code that git doesn't ignore.
    Outside a repository, both are of the repository that this package lies in; (None, "") if there is none either.
    """
    for folder in (".", os.path.dirname(__file__)):
        commit = _git(folder, "rev-parse", "HEAD")
        top = _git(folder, "rev-parse", "--show-toplevel")
        if commit is not None and top is not None:
            return _text(commit).strip(), _difference(os.fsdecode(top).rstrip("\n"))
    return None, ""


def _difference(top: str) -> str:
    tracked = _git(top, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    whole = "# git diff gave no answer\n" if tracked is None else _text(tracked)
    if len(whole) > MAX_CHARACTERS:
        return whole[:MAX_CHARACTERS] + "\n# … and more, left out: too long\n"
    for patch in _new_files(top):
        if len(whole) + len(patch) > MAX_CHARACTERS:
            return whole + "# … and more new files, left out: too long\n"
        whole += patch
    return whole


def _new_files(top: str) -> Iterator[str]:
    listed = _git(top, "ls-files", "--others", "--exclude-standard", "-z") or b""
    for name in sorted(os.fsdecode(part) for part in listed.split(b"\0") if part):
        if _is_kept(name) and (text := _read(Path(top, name))) is not None:
            yield _patch(name, text)


def _is_kept(name: str) -> bool:
    path = PurePosixPath(name)
    # Names that git would quote are left out, since the patch would have to quote them too.
    is_plain = name.isprintable() and not set('"\\') & set(name)
    return is_plain and path.suffix in SUFFIXES and EXCLUDED_FOLDERS.isdisjoint(path.parts)


def _read(file: Path) -> str | None:
    """Read a small text file; None for any other file."""
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > MAX_FILE_BYTES:
            return None
        content = file.read_bytes()
    except OSError:
        return None
    return None if b"\0" in content else _text(content)


def _patch(name: str, text: str) -> str:
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\nindex 0000000..0000000\n"
    if not text:
        return head
    lines = text.removesuffix("\n").split("\n")
    hunk = f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}\n" for line in lines)
    return head + hunk + ("" if text.endswith("\n") else "\\ No newline at end of file\n")


def _text(content: bytes) -> str:
    """Decode a file of any encoding as UTF-8, the only one that MLflow takes."""
    return content.decode("utf-8", errors="replace")


def _git(folder: str, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, timeout=TIMEOUT_SECONDS, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout
