"""The digits are scikit-learn's, read without importing it."""

import numpy as np
import torch

from pipeline.data.digits import _table


def test_loading_the_digits_does_not_import_scikit_learn(run_python):
    program = (
        "import sys, torch; from pipeline.data import digits\n"
        "digits('digits', 10, [1, 8, 8], 0, 360, 360, torch.device('cpu'))\n"
        "print('sklearn' in sys.modules)"
    )
    result = run_python("-c", program, fresh=True)
    assert result.stdout.strip() == "False", result.stderr


def test_the_digits_equal_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    assert np.array_equal(_table(), np.column_stack([images, labels]))
    assert torch.from_numpy(_table()).dtype == torch.uint8
