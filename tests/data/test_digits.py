"""The digits are scikit-learn's, read without importing it."""

import numpy as np
import torch

from pipeline.data import digits
from pipeline.data.splits import content_digest


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
    splits = digits("digits", 10, [1, 8, 8], 0, 360, 360, torch.device("cpu"))
    digest = content_digest(images.astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.int64))
    assert splits.digest == digest, "shapes, types and bytes"
