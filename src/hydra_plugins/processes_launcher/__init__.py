"""Hydra's jobs in processes of this machine that last as long as the command.

`hydra-joblib-launcher` does the same, but its workers begin anew with every job: they look for Hydra's plugins again
and unpickle configuration, loader and task again, together 0.15 s of a core for each job. These keep what the jobs of
a launch have in common.
"""
