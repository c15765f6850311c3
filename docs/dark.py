"""Run in each notebook's kernel while the site is built: a figure leaves a second picture, for readers on a dark page.

Black ink becomes light and white paper dark; hues, images and the numbers written on images stay as they are.
"""
import colorsys

PAGE = '#14181e' # of the theme's dark pages: what was white
PAPER, INK = .1, .92 # lightness of what was nearly white, and of what was black
GREY = .12 # colours with less saturation than this are ink or paper
MIME = 'image/x-dark-png'
PARTS = 'color', 'facecolor', 'edgecolor', 'markerfacecolor', 'markeredgecolor'


def turned(colour):
    "The same colour on dark paper, (r, g, b, a)."
    from matplotlib.colors import to_rgba
    r, g, b, a = to_rgba(colour)
    h, light, s = colorsys.rgb_to_hls(r, g, b)
    if min(r, g, b) > .98: return to_rgba(PAGE, a)
    if max(r, g, b) - min(r, g, b) > GREY or .45 < light < .8: return r, g, b, a
    return *colorsys.hls_to_rgb(h, INK + (PAPER - INK)*light, s), a


def many(colours):
    "One colour, or the colours of a collection; a word like 'none' or 'auto' stays."
    from matplotlib.colors import is_color_like
    if isinstance(colours, str) and (colours in ('none', 'auto', 'face') or not is_color_like(colours)): return colours
    return turned(colours) if is_color_like(colours) else [turned(c) for c in colours]


def dark_picture(fig) -> str: # base64 PNG
    "Draw the figure once more with ink and paper exchanged, its parts where they were, and put everything back."
    from IPython.core.pylabtools import print_figure
    from matplotlib import rcParams
    bounds = fig.get_tightbbox().padded(rcParams['savefig.pad_inches'])
    layout = fig.get_layout_engine() # done by the picture for light pages, just before this one
    on_images = {id(t) for ax in fig.axes if ax.images for t in ax.texts}
    everything = [a for o in fig.findobj() for a in (o, getattr(o, 'arrow_patch', None)) if a is not None]
    drawn = [a for a in everything if id(a) not in on_images and getattr(a, 'get_array', lambda: None)() is None]
    old = [(getattr(a, f'set_{part}'), getattr(a, f'get_{part}')()) for a in drawn for part in PARTS
           if hasattr(a, f'set_{part}') and hasattr(a, f'get_{part}')] # all are read first: some are two names of one
    try:
        for put, value in old: put(many(value))
        fig.set_layout_engine('none')
        return print_figure(fig, 'png', base64=True, bbox_inches=bounds, facecolor=fig.get_facecolor(), edgecolor='none')
    finally:
        fig.set_layout_engine(layout or 'none')
        for put, value in old: put(value)


def load_ipython_extension(shell):
    "A second formatter for figures, beside the usual one: `--ext=dark`."
    from IPython.core.formatters import PNGFormatter

    class DarkFormatter(PNGFormatter):
        format_type, print_method, _return_type = MIME, None, str
        def __call__(self, obj): # no table of types: matplotlib's own set-up would take figures out of it
            return dark_picture(obj) if any(f'{c.__module__}.{c.__name__}' == 'matplotlib.figure.Figure' for c in type(obj).__mro__) else None

    shell.display_formatter.formatters[MIME] = DarkFormatter(parent=shell.display_formatter)
