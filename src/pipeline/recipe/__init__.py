"""The recipe of a run as pure functions of numbers: scaling rules, LR schedules, budgets."""
