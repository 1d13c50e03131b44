"""The sweeper's plugin class and options, for Hydra to find. The work is in `lr_study`.

Hydra imports this package at the start of every Hydra app on the machine, so nothing here may import Optuna.
"""
