"""Figures from tables alone, headless; what does not fit is refused by name."""
import numpy as np
import pandas as pd
import pytest

from tensorsim_nb.figures import class_grid, diffing_figure, forgetting_figure, headline_figure, robustness_figure
from tensorsim_nb.plots import to_png, toy_table


@pytest.fixture
def staged():
    t = toy_table(12)
    t.meta['stages'], t.boundaries = ['a $x$', 'b'], {'b': 5}
    t.curves['quantity'] = t.curves['quantity'].replace({'clean accuracy': 'test_accuracy', 'attack success': 'accuracy 9'})
    return t


def drawn(fig): assert to_png(fig)[:4] == b'\x89PNG'


def test_stages(staged):
    fig = forgetting_figure(staged, names=['tensor', 'matrix'])
    maps = [a for a in fig.axes if a.images and a.get_title()]
    assert [a.get_title() for a in maps] == ['tensor', 'matrix'] and len({a.images[0].get_clim() for a in maps}) == 1
    assert [t.get_text() for t in maps[0].get_xticklabels()] == [r'a \$x\$', 'b'] # text, not maths
    drawn(fig)


def test_the_class_grid_shares_its_colours(staged):
    fig = class_grid(staged)
    maps = [a for a in fig.axes if a.images and a.get_title()]
    assert len(maps) == 10 and len({a.images[0].get_clim() for a in maps}) == 1
    drawn(fig)


def test_differences():
    i = np.arange(6)
    frame = pd.concat([pd.DataFrame(dict(index=i, stage=['a']*3 + ['b']*3, slice=s, part=p, value=i/6., null=0*i)) for s in (1, 9) for p in ('gaussian', 'trace', 'traceless')])
    fig = diffing_figure(frame, slices=(9, 1))
    assert [a.get_title() for a in fig.axes] == ['output 9', 'output 1'] and len(fig.axes[0].get_lines()) >= 5
    drawn(fig)
    with pytest.raises(ValueError, match='no 7'): diffing_figure(frame, slices=(7,))


def test_scatter_grid_and_headlines():
    b = np.linspace(-.5, 1, 50)
    pairs = pd.DataFrame(dict(name='x', behaviour=b, identity=b**3, moments=b))
    table = pd.DataFrame(dict(law='x', metric=['identity', 'moments'], r=[.9, 1.]))
    fig = robustness_figure(pairs, table, metrics=('identity', 'moments'), most=20)
    assert len(fig.axes) == 2 and len(fig.axes[0].collections[0].get_offsets()) == 20 and fig.axes[1].texts[0].get_text() == 'r = 1.0000'
    drawn(fig)
    rows = pd.DataFrame({'tensor': {'value': .3, 'value low': .2, 'value high': .4, 'null': .1, 'null low': .1, 'null high': .1}}).T
    fig = headline_figure(rows, title='gaps')
    assert fig.axes[0].get_title() == 'gaps' and [t.get_text() for t in fig.axes[0].get_yticklabels()] == ['tensor']
    drawn(fig)


def test_tables_that_do_not_fit_are_refused(staged):
    with pytest.raises(ValueError, match="no 'rsa'"): forgetting_figure(staged, names=['rsa'])
    with pytest.raises(ValueError, match='stages'): forgetting_figure(toy_table())
    staged.matrices = {'tensor': np.eye(12)}
    with pytest.raises(ValueError, match='with slices'): class_grid(staged)
