"""Damaged and hostile files: mutations of good ones, of their bytes, of their headers and of the JSON inside the headers."""
import copy
import json
import random
import struct

NASTY = (None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float('nan'), float('inf'), '', 'x'*300, '../../etc/passwd', '/etc/passwd', '\0',
         '<script>alert(1)</script>', 'causal', [], [[]], [1, 2], {}, {'type': 'Linear'}, {'__class__': 'os.system'}, 'cos\nsystem\n(S"id"\ntR.')


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


def mutate_header(rng, data, inner):
    "Change the header; `inner` are the metadata fields that hold JSON of their own."
    header, body = split(data)
    fields = [k for k in inner if k in header.get('__metadata__', {})]
    if fields and rng.random() < .7:
        k = rng.choice(fields)
        text = header['__metadata__'][k]
        header['__metadata__'][k] = mutate_bytes(rng, text.encode() or b'x').decode('latin1') if rng.random() < .2 else json.dumps(mutate_data(rng, json.loads(text)))
    else: header = mutate_data(rng, header)
    return join(header, body)


def mutate(rng, data, inner=()):
    "One to three mutations of a file that begins as a good one."
    for _ in range(rng.randint(1, 3)):
        try: data = mutate_header(rng, data, inner) if rng.random() < .5 else mutate_bytes(rng, data)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, IndexError): data = mutate_bytes(rng, data or b'x')
        data = data or b'x'
    return data


def campaign(read, good, folder, n, *, seed=0, inner=(), suffix='.safetensors', refusals=(ValueError, FileNotFoundError), check=None):
    "Feed n mutations to `read`; return how many were refused and read. Anything else than a clear refusal is raised with its seed."
    refused, path = 0, folder/f'fuzz{suffix}'
    before = sorted(p.name for p in folder.iterdir())
    for i in range(n):
        rng = random.Random(f'{seed}/{i}')
        path.write_bytes(mutate(rng, rng.choice(good), inner))
        try: got = read(path)
        except refusals as e:
            assert str(e), f'no message (seed {seed}/{i})'
            refused += 1
        except BaseException as e: raise AssertionError(f'{type(e).__name__}: {e} (seed {seed}/{i}; the file is kept as {path})') from e
        else:
            if check: check(got)
    path.unlink()
    assert sorted(p.name for p in folder.iterdir()) == before, 'a reader wrote something'
    return refused, n - refused
