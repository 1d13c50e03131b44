"""What no command may print, whatever it does: the traces of an error that nobody handled."""

# `Exception ignored in` is what Python prints of errors in finalizers, and it prints no `Traceback` for all of them.
FAULTS = ("Traceback (most recent call last)", "Exception in thread", "Exception ignored in")


def check(*texts: str) -> None:
    """Fail where a command's output holds an unhandled error."""
    for text in texts:
        for fault in FAULTS:
            assert fault not in text, text
