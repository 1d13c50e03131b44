"""How far does the linear learning-rate rule hold? Searched with Optuna, tracked in MLflow, answered."""

import signal
import sys

# While `python -m` still imports a command, Ctrl-C ends it without a traceback; `run_command` hears it from then on.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
