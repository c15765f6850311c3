"""Small sharp checks of the maths floors (01, 02, 20, 21), each written because a changed program passed the others."""
import math

import pytest
import torch


def test_shift_goes_any_distance():
    from tensorsim_nb.tensors import shift
    x = torch.tensor([1.5, -3.], dtype=torch.float64)
    assert torch.equal(shift(shift(x, 2500), -2500), torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    assert torch.equal(shift(shift(x, 1020), -1020), x)
