"""The sweeper as Hydra finds it; what it does is in `lr_study`.

Hydra imports this package at the start of every Hydra app on the machine: nothing here may import Optuna.
"""
