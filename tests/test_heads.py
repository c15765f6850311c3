"A head table by hand: angles, distances, tables, refusals."
import numpy as np
import pytest

from tensorsim_nb.heads import HeadTable


def table(zero=False):
    "Three heads whose query-key and output-value matrices are known."
    gen = np.random.default_rng(0)
    qk, ov = (gen.normal(size=(3, 2, 2)) for _ in range(2))
    if zero: ov[1] = 0
    dots = lambda x: np.einsum('hij,gij->hg', x, x)
    both = np.einsum('hij,hkl->hijkl', qk, ov).reshape(3, -1) # a head is the product of its two
    return HeadTable([(0, 0, 0), (0, 0, 1), (1, 0, 0)], ['a', 'b'], dict(QK=dots(qk), OV=dots(ov))), both


def test_angles_and_distances_of_heads():
    t, x = table()
    n = np.linalg.norm(x, axis=1)
    assert np.allclose(t.norm(), n) and np.allclose(t.similarity(), x @ x.T/np.outer(n, n))
    assert np.allclose(t.distance(), np.linalg.norm(x[:, None] - x, axis=-1), atol=1e-7)
    frame = t.to_dataframe('QK')
    assert list(frame.index) == ['a.L0H0', 'a.L0H1', 'b.L0H0'] == list(frame.columns) and np.allclose(frame, t.similarity('QK'))
    assert t.rows('b').tolist() == [2] and t.rows(-1).tolist() == [2]


def test_a_head_that_is_zero():
    t, x = table(zero=True)
    with pytest.raises(ValueError, match='a.L0H1'): t.similarity()
    assert t.similarity(zero=0.)[1].tolist() == [0, 0, 0] and np.allclose(t.distance()[1], np.linalg.norm(x, axis=1))
    for bad in ('c', 2, -3):
        with pytest.raises(ValueError, match='number or a name'): t.rows(bad)
