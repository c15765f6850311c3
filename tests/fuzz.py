"""Damaged and hostile files: mutations of good ones, of their bytes, of their headers, of the JSON inside and of the members of a zip."""
import copy
import io
import json
import random
import re
import struct
import zipfile

NASTY = (None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float('nan'), float('inf'), '', 'x'*300, '../../etc/passwd', '/etc/passwd', '\0',
         '<script>alert(1)</script>', 'causal', [], [[]], [1, 2], {}, {'type': 'Linear'}, {'__class__': 'os.system'}, 'cos\nsystem\n(S"id"\ntR.',
         '\x1b[31m', '\udc80', '\u202e', 'nan', '1', 2.5, 'F64', 'BF16', [0, 8], [0, 2**40], [2**31, 2**31], [0, 0], [[1.0]])
NPY = ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }", "('*9)",
       "{'descr': '<c16', 'fortran_order': False, 'shape': (3,), }", "{'descr': '<U4', 'fortran_order': True, 'shape': (3, 1), }", "__import__('os').mkdir('run')",
       "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }", "("*5000,
       "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,), }", "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,), }")
ONE_LINE = re.compile(r'.*: got .+\. \S.*') # need, got, do, and no line break


def split(data):
    "Header (a dict) and body of a safetensors file."
    n = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def join(header, body):
    head = json.dumps(header).encode()
    return struct.pack('<Q', len(head)) + head + body


def places(value, path=()):
    "Every path into nested data."
    yield path
    for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(v, (*path, k))


def mutate_data(rng, value):
    "Replace, drop, copy or rename one thing inside nested data."
    value = copy.deepcopy(value)
    path = rng.choice(list(places(value)))
    if not path: return rng.choice(NASTY)
    inside = value
    for k in path[:-1]: inside = inside[k]
    how, k = rng.choice(('replace', 'drop', 'double', 'rename')), path[-1]
    if how == 'drop': del inside[k]
    elif how == 'double' and isinstance(inside, list): inside.append(inside[k])
    elif how == 'rename' and isinstance(inside, dict): inside[rng.choice(('type', 'd_in', '../x', '', k + ' '))] = inside.pop(k)
    else: inside[k] = rng.choice(NASTY)
    return value


def mutate_bytes(rng, data):
    "Flip, cut, insert, repeat or overwrite bytes."
    data, i = bytearray(data), rng.randrange(len(data))
    how, n = rng.randrange(6), rng.choice((1, 2, 8, 100))
    if how == 0: data[i] ^= 1 << rng.randrange(8)
    elif how == 1: del data[i:]
    elif how == 2: del data[i:i + n]
    elif how == 3: data[i:i] = rng.randbytes(n)
    elif how == 4: data[i:i + n] = data[:n]
    else: data[:8] = struct.pack('<Q', rng.choice((0, 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1)))
    return bytes(data)


def mutate_json(rng, data, inner=()):
    "Change what JSON says, or write one of its keys twice."
    if rng.random() < .9: return json.dumps(mutate_data(rng, json.loads(data))).encode()
    text = data.decode()
    at = [m.start() for m in re.finditer(r'"\w+": ', text)]
    i = rng.choice(at)
    return (text[:i] + re.match(r'"\w+": ', text[i:])[0] + '1, ' + text[i:]).encode()


def mutate_header(rng, data, inner):
    "Change the header of a safetensors file; `inner` are the metadata fields that hold JSON of their own."
    header, body = split(data)
    fields = [k for k in inner if k in header.get('__metadata__', {})]
    if fields and rng.random() < .7:
        k = rng.choice(fields)
        text = header['__metadata__'][k]
        header['__metadata__'][k] = (mutate_bytes if rng.random() < .2 else mutate_json)(rng, text.encode() or b'x').decode('latin1')
    else: header = mutate_data(rng, header)
    return join(header, body)


def mutate_zip(rng, data, inner=()):
    "Write a zip file anew with one member changed, dropped, doubled or renamed; in .npz files also with another header of the array."
    out, names = io.BytesIO(), zipfile.ZipFile(io.BytesIO(data)).namelist()
    victim, how = rng.choice(names), rng.randrange(6)
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w', rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for name in names:
            inside = old.read(name)
            if name == victim:
                if how == 0: continue
                if how == 1: name = rng.choice(('../../evil', '/evil', 'x.npy', 'x', '', '\udc80'.encode('utf8', 'replace').decode(), name + '.npy'))
                elif how == 2 and inside[:6] == b'\x93NUMPY':
                    head = rng.choice(NPY).encode()
                    inside = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + inside[128:]
                else: inside = mutate_bytes(rng, inside or b'x')
            new.writestr(name, inside)
    return out.getvalue()


KINDS = dict(safetensors=mutate_header, json=mutate_json, zip=mutate_zip, bytes=lambda rng, data, inner: mutate_bytes(rng, data))
BROKEN = (ValueError, KeyError, TypeError, AttributeError, struct.error, IndexError, zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError, OSError, zipfile.zlib.error)


def mutate(rng, data, inner=(), kind='safetensors'):
    "One to three mutations of a file that begins as a good one."
    for _ in range(rng.randint(1, 3)):
        try: data = KINDS[kind](rng, data, inner) if rng.random() < .6 else mutate_bytes(rng, data)
        except BROKEN: data = mutate_bytes(rng, data or b'x')
        data = data or b'x'
    return data


def campaign(read, good, folder, n, *, seed=0, inner=(), kind='safetensors', suffix='', refusals=(ValueError, TypeError, OSError, NotImplementedError), check=None):
    "Feed n mutations to `read`; return how many were refused and read. Anything else than a clear refusal is raised with its seed."
    refused, path = 0, folder/f'fuzz{suffix}'
    before = sorted(p.name for p in folder.iterdir())
    for i in range(n):
        rng = random.Random(f'{seed}/{i}')
        path.write_bytes(mutate(rng, rng.choice(good), inner, kind))
        try: got = read(path)
        except refusals as e:
            if not ONE_LINE.fullmatch(str(e)): raise AssertionError(f'no need, got, do in one line: {type(e).__name__}: {str(e)!r} (seed {seed}/{i}; the file is kept as {path})') from e
            refused += 1
        except BaseException as e: raise AssertionError(f'{type(e).__name__}: {str(e)!r} (seed {seed}/{i}; the file is kept as {path})') from e
        else:
            try:
                if check: check(got)
            except Exception as e: raise AssertionError(f'read, but not sound: {type(e).__name__}: {e} (seed {seed}/{i}; the file is kept as {path})') from e
    path.unlink()
    assert sorted(p.name for p in folder.iterdir()) == before, 'a reader wrote something'
    return refused, n - refused
