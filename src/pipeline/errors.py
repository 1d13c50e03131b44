"""The one error a user can mend: a request that was wrong."""


class RequestError(ValueError):
    """A request that cannot be carried out as it was made.

    Its message is one or two lines: what was given, what is allowed, how to mend it.
    A command that meets it prints the message and exits with code 2.
    """
