"""How a run ended: the words in MLflow's tag `status`, in the column `status` of a table, and in messages."""

# The run used up its budget, or reached its target: its value is a result.
COMPLETE = "complete"
# Training failed at this LR: the loss became non-finite or exploded (`diverged`), or the network fell back to a
# constant guess (`stalled`). Such a run is a result too: the best LR lies below its LR.
FAILED = ("diverged", "stalled")
# The process ended before training did: by an exception, by a signal, or without a word. These can be resumed.
RAISED = "failed"
CRASHED = (RAISED, "interrupted", "lost")
# The run has metrics of a part of its budget only.
CUT_SHORT = (*CRASHED, "pruned", "running")
# Neither a result nor a bound on the best LR. `missed`: the budget ended before the target was reached.
WITHOUT_RESULT = (*CUT_SHORT, "missed")

# A run has learned nothing if its loss is at least this share of the best constant guess's loss.
NEAR_GUESS = 0.95

STATUSES = (COMPLETE, *FAILED, *WITHOUT_RESULT)
