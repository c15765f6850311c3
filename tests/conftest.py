"""Tests run with every shape annotation of the library checked (jaxtyping + beartype)."""
import os, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))   # the working tree, not some other installed copy

assert not any(m.split('.')[0] == 'tensorsim_nb' for m in sys.modules), "the hook must come before the first import"
from jaxtyping import install_import_hook
install_import_hook('tensorsim_nb', 'beartype.beartype')

import pytest, torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it does, above all on a busy machine

settings.register_profile('gate', max_examples=25, deadline=None, derandomize=True, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.register_profile('search', max_examples=500, deadline=None)   # HYPOTHESIS_PROFILE=search looks further
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'gate'))


@pytest.fixture
def root(): return ROOT


@pytest.fixture(autouse=True)
def same_random_state():
    "Every test starts from the same global random state, whatever ran before it."
    torch.manual_seed(0)


def pytest_configure(config):
    config.addinivalue_line('markers', 'browser: opens a page in headless chromium; skipped with a reason where there is none')
