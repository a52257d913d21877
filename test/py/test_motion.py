"""The two ways to sum the gradient of the motion term's offset table."""

import pytest
import torch

from coldframe.decoders.evl.motion import _table_gradient, _table_gradient_at_once


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(("height", "num_columns"), [(1, 5), (2, 6), (7, 3)])
def test_at_once_and_row_by_row_agree(height, num_columns, dtype, limit):
    torch.manual_seed(0)
    maps = torch.rand(height, 11, height * num_columns).to(dtype)
    # As the backward pass has it: the frames of a longer tensor, one run of rows for each query row.
    grad = torch.randn(height, 15, 6).to(dtype)[:, 4:]
    out = torch.promote_types(dtype, torch.float32)
    expected = _table_gradient(maps, grad, out, height)
    found = _table_gradient_at_once(maps, grad, out, height)
    assert found.shape == (2 * height - 1, num_columns, 6)
    assert found.dtype == out
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)
