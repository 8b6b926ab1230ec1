"""README.md from nbs/index.ipynb: `python .ci/readme.py` writes it, with `--check` it only says whether it is in sync.

Markdown cells are taken as they are, code cells with their stored outputs; pictures become files in nbs/images.
A cell that starts with `#| hide` is left out, one that starts with `#| echo: false` shows its output only."""
import base64, json, posixpath, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
images = root/'nbs'/'images'

def output(o, files):
    data = {k: ''.join(v) for k, v in o.get('data', {}).items()}
    if kind := next((k for k in ('png', 'jpeg') if f'image/{k}' in data), None):
        name = f'index_{len(files)}.{kind}'
        files[name] = base64.b64decode(data[f'image/{kind}'])
        return f'![]({(images/name).relative_to(root).as_posix()})'
    if 'text/markdown' in data: return data['text/markdown']
    text = ''.join(o.get('text', '')) if o['output_type'] == 'stream' and o.get('name') == 'stdout' else data.get('text/plain', '')
    return '\n'.join('    ' + l for l in text.rstrip().splitlines())

def from_root(text):
    "Links that are relative to nbs/, as seen from the README; addresses of the web and places in the page stay"
    return re.sub(r'\]\((?!\w+:|#)([^)\s]+)', lambda m: f"]({posixpath.normpath(f'nbs/{m[1]}')}", text)

def readme():
    "The text of the README and its pictures, by file name"
    parts, files = [], {}
    for cell in json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        directives = re.match(r'(?:#\|.*\n?)*', source).group()
        if re.search(r'#\|\s*hide\s*$', directives, re.M): continue
        if cell['cell_type'] == 'markdown': parts.append(from_root(source))
        else:
            code = source[len(directives):].strip()
            if code and not re.search(r'#\|\s*echo:\s*false', directives): parts.append(f'```python\n{code}\n```')
            parts += [t for o in cell['outputs'] if (t := output(o, files))]
    return '\n\n'.join(parts) + '\n', files

def main():
    text, files = readme()
    wanted = {root/'README.md': text.encode()} | {images/n: b for n, b in files.items()}
    stale = [p.relative_to(root).as_posix() for p, b in wanted.items() if not p.exists() or p.read_bytes() != b]
    stale += [p.relative_to(root).as_posix() for p in images.glob('index_*') if p not in wanted]
    if '--check' in sys.argv[1:]: sys.exit(f"not in sync with nbs/index.ipynb: {', '.join(stale)}; run python .ci/readme.py" if stale else 0)
    images.mkdir(exist_ok=True)
    for p in images.glob('index_*'):
        if p not in wanted: p.unlink()
    for p, b in wanted.items(): p.write_bytes(b)

if __name__ == '__main__': main()
