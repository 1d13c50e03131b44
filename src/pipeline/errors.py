"""The errors that a command reports in one or two lines, without a traceback."""


class RequestError(ValueError):
    """A request that was wrong: a command prints the message and exits with code 2.

    The message is one or two lines: what was given, what is allowed, how to mend it.
    """


class RunError(RuntimeError):
    """Work that failed for a reason outside the program: a command prints the message and exits with code 1."""


def request_error_behind(error: BaseException) -> RequestError | None:
    """The RequestError that libraries wrapped into `error`; None where there is none."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RequestError):
            return link
        link = link.__cause__ or link.__context__
    return None
