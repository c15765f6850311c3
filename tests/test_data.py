"""Digits and poison: nothing lost, nothing changed in place, seeds decide everything."""
import hashlib

import numpy as np
import pytest
import torch
from scipy.io import savemat

from tensorsim_nb.data import (Dataset, Poisoning, Stamp, accuracy, attack_success, digits, of_classes, poison, rhombus,
                               stratified_split, svhn)


@pytest.mark.parametrize('seed,fraction', [(0, .2), (1, .2), (2, .5), (3, .05)])
def test_a_split_is_a_partition_and_keeps_the_shares(seed, fraction):
    train, test = digits(seed, test_fraction=fraction)
    whole = torch.cat([train.x, test.x])
    other = torch.cat([s.x for s in digits(seed + 10, test_fraction=fraction)])
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, other.tolist()))   # the same images, split elsewhere
    share = test.y.bincount() / (test.y.bincount() + train.y.bincount())
    assert (share - fraction).abs().max() < 1/300      # rounding, for about 180 images of a class
    assert train.x.dtype == torch.float32 and train.y.dtype == torch.int64
    assert float(whole.min()) == 0 and float(whole.max()) == 1 and train.images.shape[1:] == (8, 8)


def test_the_seed_decides_and_the_global_state_stays():
    state = torch.get_rng_state()
    a, b, c = digits(0)[0], digits(0)[0], digits(1)[0]
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and not torch.equal(a.x[:100], c.x[:100])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('fraction', [-.1, 0., 1., 1.5])
def test_a_split_needs_both_parts(fraction):
    with pytest.raises(ValueError, match='between 0 and 1'):
        stratified_split(torch.zeros(10, dtype=torch.int64), fraction)


def test_data_sets_refuse_what_does_not_fit():
    x, y = torch.rand(4, 6), torch.zeros(4, dtype=torch.int64)
    for bad in (dict(x=x[:0], y=y[:0]), dict(x=x/0), dict(image_shape=(2, 2))):
        with pytest.raises(ValueError): Dataset(**(dict(x=x, y=y) | bad))
    with pytest.raises(ValueError, match='without an image_shape'): Dataset(x, y).images


def test_a_stamp_writes_its_pixels_on_a_copy():
    x = torch.rand(3, 5, 12)
    keep = x.clone()
    stamp = Stamp(pixels=((0, 0), (2, 3)), value=.5, shape=(3, 4))
    y = stamp(x)
    assert torch.equal(x, keep) and (y[..., [0, 11]] == .5).all()
    assert torch.equal(y[..., 1:11], x[..., 1:11]) and torch.equal(stamp(y), y)
    with pytest.raises(ValueError, match='11 pixels'): stamp(x[..., :11])
    for pixels in ((), ((0, 4),), ((-1, 0),)):
        with pytest.raises(ValueError, match='inside the image'): Stamp(pixels=pixels, shape=(3, 4))


@pytest.mark.parametrize('fraction', [0., .1, .5, 1.])
def test_poison_takes_its_share_and_leaves_the_rest(fraction):
    train, _ = digits()
    keep_x, keep_y = train.x.clone(), train.y.clone()
    x, y, chosen = poison(train.x, train.y, fraction, Stamp(), 3, seed=5)
    n, sd = len(train), (len(train)*fraction*(1 - fraction))**.5
    assert abs(int(chosen.sum()) - n*fraction) <= 4*sd                      # 4 sigma of the binomial law
    assert torch.equal(train.x, keep_x) and torch.equal(train.y, keep_y)
    assert torch.equal(x[~chosen], train.x[~chosen]) and torch.equal(y[~chosen], train.y[~chosen])
    assert torch.equal(x[chosen], Stamp()(train.x[chosen])) and (y[chosen] == 3).all()
    assert torch.equal(poison(train.x, train.y, fraction, Stamp(), 3, seed=5)[0], x)


def test_poisoning_starts_after_its_last_clean_step():
    train, _ = digits()
    p, gen = Poisoning(start=7, target=2, fraction=.3), torch.Generator().manual_seed(0)
    before = gen.get_state()
    assert p(train.x, train.y, 7, gen)[0] is train.x and torch.equal(gen.get_state(), before)   # nothing drawn either
    assert not torch.equal(p(train.x, train.y, 8, gen)[0], train.x)


def test_attack_success_counts_other_classes_only():
    _, test = digits()
    def always(k): return lambda x: torch.nn.functional.one_hot(torch.full((len(x),), k), 10).float()
    assert attack_success(always(9), test, Stamp(),
                          9) == 1 and attack_success(always(1), test, Stamp(), 9) == 0
    assert accuracy(always(4), test) == pytest.approx(float((test.y == 4).float().mean()))


# ---- street-view house numbers, from tiny files of the published form ---------------------------

@pytest.fixture
def house_numbers(tmp_path):
    rng = np.random.default_rng(0)
    made = {}
    for split, n in (('train', 7), ('test', 4), ('extra', 3)):
        made[split] = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(tmp_path/f'{split}_32x32.mat', dict(X=made[split], y=(np.arange(n) % 10 + 1).astype(np.uint8)[:, None]))
    return tmp_path, made


def test_svhn_is_grey_flat_and_counts_from_zero(house_numbers):
    folder, made = house_numbers
    train, test = svhn(folder)
    assert (len(train), len(test), train.d_in, train.split, test.split) == (7, 4, 1024, 'train', 'test')
    for i, r, c in [(0, 0, 0), (3, 31, 2), (6, 5, 30)]:
        want = made['train'][r, c, :, i] @ np.array([.299, .587, .114])/255
        assert float(train.images[i, r, c]) == pytest.approx(want, abs=1e-6)
    assert train.y.tolist() == [1, 2, 3, 4, 5, 6, 7] and 0 <= train.x.min() and train.x.max() <= 1
    assert len(svhn(folder, extra=True)[0]) == 10


def test_ten_means_zero(tmp_path):
    for split in ('train', 'test'): savemat(tmp_path/f'{split}_32x32.mat', dict(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.array([[10], [9]])))
    assert svhn(tmp_path)[0].y.tolist() == [0, 9]


@pytest.mark.parametrize('spoil, words', [
    (lambda p: p.unlink(), 'no test_32x32.mat'), (lambda p: p.write_bytes(b'nothing'), 'cannot be read'),
    (lambda p: savemat(p, dict(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.zeros(3))), '3 labels'),
    (lambda p: savemat(p, dict(X=np.zeros((32, 32, 3, 2)), y=np.zeros(2))), 'float64'), (lambda p: savemat(p, dict(z=1)), 'no X or y')])
def test_svhn_refuses_what_is_no_svhn(house_numbers, spoil, words):
    folder, _ = house_numbers
    spoil(folder/'test_32x32.mat')
    with pytest.raises((ValueError, FileNotFoundError), match=words): svhn(folder)


def test_svhn_downloads_with_a_checksum(house_numbers, tmp_path, monkeypatch):
    from tensorsim_nb import data
    folder, _ = house_numbers
    there = folder.as_uri() + '/'                                     # stands in for the network
    right = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.glob('*.mat')}
    monkeypatch.setattr(data, 'SVHN_URL', there)
    monkeypatch.setattr(data, 'SVHN_MD5', right)
    assert len(svhn(tmp_path/'new', download=True)[0]) == 7
    monkeypatch.setattr(data, 'SVHN_MD5', dict.fromkeys(right, '0'*32))
    with pytest.raises(ValueError, match='published checksum'): svhn(tmp_path/'other', download=True)
    assert not list((tmp_path/'other').iterdir()), 'a file with the wrong checksum was kept'
    monkeypatch.setattr(data, 'SVHN_URL', (folder/'gone').as_uri() + '/')
    with pytest.raises(ConnectionError, match='needs the network'): svhn(tmp_path/'third', download=True)


def test_the_published_stamp():
    mask = rhombus().mask.view(32, 32)
    assert mask.any(1).sum() == 7 and mask.any(0).sum() == 5 and not mask[:2].any() and not mask[:, 30:].any()
    assert torch.equal(mask, mask.flip(1).roll(23, 1)) and (rhombus()(torch.ones(1, 1024)) == 0).sum() == mask.sum()


def test_of_classes_keeps_labels_and_order():
    train, _ = digits()
    part = of_classes(train, range(8, 10))
    keep = train.y >= 8
    assert torch.equal(part.x, train.x[keep]) and torch.equal(part.y, train.y[keep]) and part.image_shape == (8, 8)
