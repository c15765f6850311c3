"""Mutation test of the maths floors: change one thing in a function, and see whether a check notices.

    python tools/mutate.py [tensors laws moments similarity] [--sample 200] [--seed 0] [--json FILE] [--show] [--only LINE,...] [--tests 'FILE ...'] [--quick SECONDS] [--again FILE] [--beyond FILE]

A mutant swaps an operator, comparison or branch, moves a number by one, drops a `not`, a minus, a transpose, a root or a statement. Each is put
into the running functions of a forked child (torch and the tests stay imported), which runs those of the module's own notebook and a few test
files that pass through the changed statement, the quickest first; the first failure kills it, and so does a time limit. Numbers in annotations, defaults and messages are left alone. `--sample` draws that many per module,
every operator represented; 0 takes all. Survivors that no input can tell from the original are named, with a word why, in EQUIVALENT.
"""
import argparse, ast, copy, gc, importlib, io, json, math, os, pickle, random, re, resource, select, signal, sys, time, types, warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITES = dict(tensors=('01', 'test_floors_maths test_numerics'), laws=('02', 'test_floors_maths test_laws test_sampling test_properties test_numerics'),
              moments=('20', 'test_floors_maths test_moments test_distances test_properties test_numerics test_hermite'),
              similarity=('21', 'test_floors_maths test_similarity test_spectrum test_distances test_properties test_numerics test_sampling'))
SLOW = 'attention and distance or attention and deep_models or test_one_attention or disguises' # left out, to be quick
SWAP = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv}
TURN = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
        ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
EQUIVALENT = ROOT/'tools'/'mutants_equivalent.json' # module -> {mutant: why}


def changes(node):
    "Name of the operator and replacement, for every mutation of one node."
    if isinstance(node, ast.BinOp) and type(node.op) in SWAP: yield 'arithmetic', ast.BinOp(node.left, SWAP[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in SWAP: yield 'arithmetic', ast.AugAssign(node.target, SWAP[type(node.op)](), node.value)
    if isinstance(node, ast.Compare):
        for op in TURN[type(node.ops[0])]: yield 'comparison', ast.Compare(node.left, [op(), *node.ops[1:]], node.comparators)
    if isinstance(node, ast.BoolOp): yield 'and/or', ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)): yield 'not/minus dropped', node.operand
    if isinstance(node, ast.IfExp): yield 'branch', ast.IfExp(node.test, node.orelse, node.body)
    if isinstance(node, ast.If): yield 'branch', ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool): yield 'constant', ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield 'constant', ast.Constant(node.value + 1)
        if node.value: yield 'constant', ast.Constant(node.value - 1)
    if isinstance(node, ast.Attribute) and node.attr in ('T', 'mT'): yield 'transpose dropped', node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ('sqrt', 'abs', 'exp', 'log') and not node.args:
        yield 'function dropped', node.func.value
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Raise)) or isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield 'statement removed', ast.Pass()


def places(node, inside=False):
    "Every (parent, field, index, node) of the functions' bodies, in order."
    for name, value in ast.iter_fields(node):
        if name in ('annotation', 'returns', 'decorator_list', 'defaults', 'kw_defaults', 'format_spec') or isinstance(node, ast.JoinedStr): continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, ast.Call) and getattr(child.func, 'id', '') == 'message': continue
            within = inside or isinstance(node, (ast.FunctionDef, ast.Lambda))
            if within: yield node, name, i if isinstance(value, list) else None, child
            yield from places(child, within)


def spans(tree):
    "Node -> lines of the statement that it stands in (of a compound one: its head), and the function's name."
    found = {}
    def go(node, lines, name):
        if isinstance(node, ast.stmt):
            body = getattr(node, 'body', None)
            lines = frozenset(range(node.lineno, (max(body[0].lineno, node.lineno + 1) if body else node.end_lineno + 1)))
        elif isinstance(node, ast.ExceptHandler): lines = frozenset([node.lineno])
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): name = f'{name}.{node.name}'.lstrip('.')
        found[node] = lines, name
        for child in ast.iter_child_nodes(node): go(child, lines, name)
    go(tree, frozenset(), '')
    return found


def mutants(source):
    "Every mutant: operator, line, before and after, the lines that run it, and where it is in the tree."
    tree, found, seen = ast.parse(source), [], Counter()
    where = spans(tree)
    for k, (*_, node) in enumerate(places(tree)):
        for n, (op, new) in enumerate(changes(node)):
            lines, name = where[node]
            text = f'{name}: ' + ' -> '.join(ast.unparse(ast.fix_missing_locations(x)).split('\n')[0] for x in (node, ast.copy_location(copy.deepcopy(new), node)))
            seen[text] += 1
            found.append(dict(op=op, line=node.lineno, text=text + (f' ({seen[text]})' if seen[text] > 1 else ''), at=(k, n), span=lines))
    return found


def mutated(source, at):
    tree = ast.parse(source)
    parent, name, i, node = list(places(tree))[at[0]]
    new = ast.copy_location(list(changes(node))[at[1]][1], node)
    if i is None: setattr(parent, name, new)
    else: getattr(parent, name)[i] = new
    return ast.fix_missing_locations(tree)


def functions(code):
    "Code objects of functions and methods, by name and first line."
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            if c.co_name != '<lambda>': yield (c.co_qualname, c.co_firstlineno), c
            yield from functions(c)


def put(module, tree):
    "Give the running functions the code of a changed tree."
    new = dict(functions(compile(tree, module.__file__, 'exec')))
    for f in gc.get_objects():
        if isinstance(f, types.FunctionType) and f.__code__.co_filename == module.__file__:
            c = new.get((f.__code__.co_qualname, f.__code__.co_firstlineno))
            if c is not None and c.co_freevars == f.__code__.co_freevars: f.__code__ = c


def cells(number):
    "Compiled code of a notebook, but for what it exports."
    path = next((ROOT/'nbs'/'api').glob(f'{number}_*.ipynb'))
    found = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
    return [compile(c, path.name, 'exec') for c in found if not any(w in c for w in ('#| export', '#| default_exp', 'nbdev_export(', 'eval: false'))]


class Units:
    """The notebook and every test as things to run, collected once by pytest; the loop of mutants takes the place of pytest's own loop.
    `--noconftest`: the tests' fixtures without the shape checks, which are slow."""
    def __init__(self, module, number, files, torch):
        self.module, self.cells, self.files, self.torch = module, cells(number), files.split(), torch
    def options(self): return ['-x', '-q', '--noconftest', '-p', 'no:cacheprovider', '-p', 'no:capture', '-W', 'ignore', '--no-header', '-k', f'not ({SLOW})', *(f'{ROOT}/tests/{f}.py' for f in self.files)]
    def pytest_runtestloop(self, session):
        self.items = session.items
        self.work(self)
        return True
    def pytest_runtest_logreport(self, report):
        if report.failed: raise SystemExit(1)

    def run(self, unit):
        if unit is not None: return unit.config.hook.pytest_runtest_protocol(item=unit, nextitem=None)
        self.torch.manual_seed(0)
        space = dict(vars(self.module), __name__='__main__')
        for code in self.cells: exec(code, space)

    def traced(self, unit):
        "Lines of the module that a unit runs."
        lines, file = set(), self.module.__file__
        def inside(frame, event, arg):
            lines.add(frame.f_lineno)
            return inside
        def outside(frame, event, arg): return inside(frame, event, arg) if frame.f_code.co_filename == file else None
        sys.settrace(outside)
        try: self.run(unit)
        finally: sys.settrace(None)
        return lines

    def learn(self):
        "Seconds and lines of every unit (in a child each, so that nothing is left over); all must pass."
        self.seconds, self.lines = {}, {}
        for unit in (None, *self.items):
            fate, self.seconds[unit], self.lines[unit] = in_child(lambda: self.traced(unit), 600)
            if fate != 'survived': sys.exit(f"{self.module.__name__}: {unit.nodeid if unit else 'the notebook'} fails without a mutant")
        return sum(self.seconds.values())

    def touching(self, span):
        "Units that run one of these lines, the quickest first."
        return sorted((u for u in self.seconds if self.lines[u] & span), key=lambda u: self.seconds[u])


def in_child(work, limit):
    "Run in a forked child: (fate, its seconds, what it returned); `limit` is in seconds of the processor."
    start, (near, far) = time.time(), os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
        warnings.simplefilter('ignore')
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        code = 1
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()): got = work()
            with os.fdopen(far, 'wb') as f: f.write(pickle.dumps(got))
            code = 0
        except BaseException: pass
        os._exit(code)
    os.close(far)
    got = b''
    while time.time() - start < 20*limit:
        if select.select([near], [], [], .01)[0]: got += os.read(near, 1 << 16)
        done, status, used = os.wait4(pid, os.WNOHANG)
        spent = used.ru_utime + used.ru_stime
        if done:
            while (more := os.read(near, 1 << 16)): got += more
            os.close(near)
            return 'timed out' if os.WIFSIGNALED(status) and spent > .9*limit else 'killed' if status else 'survived', spent, pickle.loads(got) if got else None
    os.killpg(pid, signal.SIGKILL), os.waitpid(pid, 0), os.close(near)
    return 'timed out', limit, None


def prepare():
    "Import once what every child needs."
    sys.path[:0] = [str(ROOT), str(ROOT/'tests')]
    os.environ.update(MPLBACKEND='agg')
    import hypothesis, matplotlib.pyplot, pandas, pytest, torch, fastcore.test, scipy.stats # noqa: F401
    import tensorsim_nb
    for name in sorted(p.stem for p in (ROOT/'tensorsim_nb').glob('*.py') if p.stem[0] != '_'): importlib.import_module(f'tensorsim_nb.{name}')
    torch.set_num_threads(1)
    hypothesis.settings.register_profile('quick', max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.load_profile('quick')
    plugin = types.ModuleType('mutation_plugin')
    plugin.same = pytest.fixture(autouse=True)(lambda: torch.manual_seed(0))
    plugin.root = pytest.fixture(name='root')(lambda: ROOT)
    plugin.ROOT = ROOT
    sys.modules |= dict(mutation_plugin=plugin, conftest=plugin)
    return torch, pytest


def drawn(found, n, seed):
    "A sample in which every operator has its share, one at least."
    if not n or len(found) <= n: return found
    rng, kinds = random.Random(seed), {}
    for m in found: kinds.setdefault(m['op'], []).append(m)
    picked = [m for group in kinds.values() for m in rng.sample(group, max(1, round(n*len(group)/len(found))))]
    return rng.sample(picked, len(picked)) # in no order: a run that is cut short is a sample, too


def bare(text): return re.sub(r'^[\w.]+: | \(\d+\)$', '', text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('modules', nargs='*', default=list(SUITES))
    p.add_argument('--sample', type=int, default=200)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--json', type=Path)
    p.add_argument('--show', action='store_true')
    p.add_argument('--only')
    p.add_argument('--tests', help='these test files in place of the usual ones')
    p.add_argument('--quick', type=float, default=math.inf, help='leave out checks of more seconds than this: what survives then may still be killed without it')
    p.add_argument('--again', type=Path, help='the --json of an earlier run, whose survivors alone are tried (by their words, in any function)')
    p.add_argument('--beyond', type=Path, help='the --json of an earlier run, whose mutants are left out')
    args = p.parse_args()
    (torch, pytest), table = prepare(), {}
    known = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    again = json.loads(args.again.read_text())['floors'] if args.again else {}
    before = json.loads(args.beyond.read_text())['floors'] if args.beyond else {}
    for name in args.modules:
        module = importlib.import_module(f'tensorsim_nb.{name}')
        source = Path(module.__file__).read_text()
        every = mutants(source)
        tried = set(before.get(name, {}).get('tried', ()))
        fresh = [m for m in every if m['text'] not in tried]
        chosen = fresh
        if args.only: chosen = [m for m in chosen if str(m['line']) in args.only.split(',')]
        if args.again: chosen = [m for m in chosen if bare(m['text']) in {bare(x['text']) for x in again[name]['survivors']}]
        if not (args.only or args.again): chosen = drawn(fresh, args.sample, args.seed)

        def work(units):
            print(f"{name}: {len(every)} mutants, {len(chosen)} to try, checks take {units.learn():.1f} s", flush=True)
            if args.show: return
            fates, left, equal, start = Counter(), [], [], time.time()
            for m in chosen:
                todo = [u for u in units.touching(m['span']) if units.seconds[u] <= args.quick]
                def attempt():
                    put(module, mutated(source, m['at']))
                    for unit in todo: units.run(unit)
                fate = in_child(attempt, 3*sum(map(units.seconds.get, todo)) + 5)[0] if todo else 'survived'
                if fate == 'survived' and m['text'] in known.get(name, {}): fate = 'equivalent'
                if fate == 'equivalent': equal.append(m['text'])
                fates[fate] += 1
                if fate == 'survived':
                    left.append(dict(line=m['line'], op=m['op'], text=m['text']))
                    print(f"  survived: line {m['line']}: {m['op']}: {m['text']}" + ('' if todo else ' (no check runs the line)'), flush=True)
                table[name] = dict(mutants=len(every), drawn=sum(fates.values()), **{k.replace(' ', '_'): fates[k] for k in ('killed', 'timed out', 'equivalent', 'survived')}, seconds=round(time.time() - start), survivors=left, same=equal, tried=[c['text'] for c in chosen[:sum(fates.values())]])
                if args.json: args.json.write_text(json.dumps(dict(seed=args.seed, floors=table), indent=1))
            print(f"{name}: {dict(fates)} in {time.time() - start:.0f} s", flush=True)
        units = Units(module, SUITES[name][0], args.tests or SUITES[name][1], torch)
        units.work = work
        pytest.main(units.options(), plugins=[units, sys.modules['mutation_plugin']])


if __name__ == '__main__': main()
