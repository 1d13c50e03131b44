"""A launcher that runs Hydra's jobs in worker processes, which live as long as the command.

`hydra-joblib-launcher` does the same, but its workers find Hydra's plugins and unpickle configuration, loader and task
again for every job, which takes 0.15 s of a core. These workers keep what the jobs of a launch have in common.
"""
