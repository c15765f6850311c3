"""Exact, weight-based similarity of polynomial (tensor) networks. Names load when they are first used."""

__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType

# The public face: module -> its names here. A new public name is one word in this table (tests/test_public.py).
PUBLIC = dict(
    laws = "Gaussian LowRank Mixture Tokens Categorical Independent Empirical",
    layers = "Linear BilinearMLP BilinearAttention",
    models = "Model classifier deep_mlp transformer save load",
    similarity = "Estimate inner norm similarity distance plan spectrum",
    gram = "Gram gram gram_tensor",
    baselines = "matrix_cosine output_cosine linear_cka procrustes_similarity rsa js_divergence agreement_rate",
    alignment = "aligned_cosine",
    heads = "HeadTable",
    slices = "slice_outputs project_inputs slice_inputs slice_hidden slice_heads slice_path slice_positions",
    attribution = "Attribution attribute",
    differences = "recover_trigger check_invariances best_scale moebius eigenfeatures truncate steepest_input compress prune argmax_certificate",
    compare = "compare_all",
    data = "digits svhn",
    train = "TrainConfig train checkpoints",
    experiments = "BackdoorConfig CheckpointTable backdoor gap_table",
    nulls = "bootstrap_interval headline_table null_levels matched_gap",
    robustness = "RobustnessConfig robustness robustness_table",
    forgetting = "ForgettingConfig forgetting contrast_table diffing",
    modular_addition = "ModularConfig quick_modular modular_addition phase_table segment",
    plots = "similarity_heatmap training_curves backdoor_figure spectrum_bars head_heatmap modular_figure language_figure",
    language = "LanguageConfig quick_language language",
    figures = "forgetting_figure diffing_figure robustness_figure class_grid headline_figure",
    explorers = "CheckpointExplorer",
    compare_heads = "compare_heads",
    state_dicts = "from_state_dict",
    polynomials = "from_transformer_lens hermite_mlp",
    hooks = "hooked",
    lens = "qk_circuit ov_circuit virtual_head compose composition_scores pair_law stream_law",
    explore_weights = "SliceExplorer EigenExplorer DifferenceExplorer",
    explore_laws = "GaussianExplorer RecursionExplorer",
    explore_symmetry = "SymmetryExplorer",
    explore_heads = "HeadExplorer",
)

_home = {name: module for module, names in PUBLIC.items() for name in names.split()}
__all__ = list(_home)


def __getattr__(name):
    "Import the module that holds `name` when it is first asked for (PEP 562)."
    if name in PUBLIC and name not in _home: return import_module(f"{__name__}.{name}")
    if name not in _home: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_home[name]}"), name)
    globals()[name] = value
    return value


def __dir__(): return sorted({'__version__', *PUBLIC, *_home})


class _Package(ModuleType):
    "Keeps `ts.similarity` the function: Python binds a submodule of the same name here when it is imported."
    def __setattr__(self, name, value):
        if not (name in _home and isinstance(value, ModuleType)): super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
