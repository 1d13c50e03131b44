"""What the C library does with memory that was freed.

glibc gives large blocks back to the system as soon as they are freed, and each training step gets them again, page by
page, every page a fault and zeroed. The activations of a convolution net are such blocks; see benchmarks/RESULTS.md
for what that costs.
"""

import ctypes
import functools

# glibc's names for what mallopt sets (malloc.h).
M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4
NEVER_TRIM = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Have freed memory kept for the next step, for as long as this process lives; False where that can't be set."""
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt that does something else
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Without mmap a block lies in the heap, which isn't trimmed. Small leftovers join their neighbours at once, so that
    # the next step's blocks fit where this one's were: a tenth less memory.
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER_TRIM), (M_MXFAST, 0))
    return all(mallopt(name, value) for name, value in settings)
