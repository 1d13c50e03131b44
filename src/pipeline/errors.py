"""The one error a user can mend: a request that was wrong."""


class RequestError(ValueError):
    """A request that cannot be carried out as it was made.

    Its message is one or two lines: what was given, what is allowed, how to mend it.
    A command that meets it prints the message and exits with code 2.
    """


class RunError(RuntimeError):
    """Work that failed for a reason outside the program: a command prints the line or two and exits with code 1."""


def request_error_behind(error: BaseException) -> RequestError | None:
    """The RequestError that led to `error`, through what libraries wrap around it; None where there is none."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RequestError):
            return link
        link = link.__cause__ or link.__context__
    return None
