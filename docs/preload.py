"""What most notebooks import, loaded once in the process whose forks are their kernels (warm.py)."""
import importlib, os
from pathlib import Path

PACKAGES = ('IPython.core.completer', 'ipykernel.kernelapp', 'ipykernel.zmqshell', 'matplotlib.pyplot', 'nbdev.showdoc',
            'fastcore.test', 'pandas', 'torch', 'jaxtyping', 'safetensors.torch', 'anywidget',
            'sklearn.datasets', 'transformer_lens')
OURS = sorted(p.stem for p in (Path(__file__).resolve().parent.parent/'tensorsim_nb').glob('[a-z]*.py'))

os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline' # a kernel's; read when pyplot is imported
for name in (*PACKAGES, *(f'tensorsim_nb.{stem}' for stem in OURS)):
    try: importlib.import_module(name)
    except ImportError: pass # left to the notebook that needs it, which says so
