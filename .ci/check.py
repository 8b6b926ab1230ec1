"""Every check of the project, one after another, from the root of a copy of the checkout; run by .ci/run."""
import ast, gc, importlib, json, os, re, signal, socket, subprocess, sys, tempfile, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
results = []

# The import rule: each part, and the parts that it may import. A notebook's own tests may import anything.
LOWER = ['core', 'io', 'paths', 'rules', 'inside', 'boundary', 'bias_free']
MAY = dict(
    core=[], io=['core'], paths=['core', 'io'], rules=['core', 'io', 'paths'], inside=['core', 'io', 'paths'],
    boundary=['core', 'paths', 'rules'], bias_free=['core', 'io', 'paths'], evaluate=LOWER,
    commands=LOWER + ['evaluate'], explorers=LOWER + ['evaluate', 'commands'],
    all=LOWER + ['evaluate', 'commands', 'explorers'], bench=LOWER + ['evaluate', 'commands', 'explorers', 'all'])

def check(name, f):
    "Run one check; whatever it raises is a failure"
    start = time.time()
    try: f(); ok = True
    except (Exception, SystemExit) as e:
        ok = False
        print(e, flush=True)
    results.append(ok)
    print(f"{'passed' if ok else 'FAILED'}  {name}  ({time.time() - start:.0f} s)", flush=True)

def together(*checks):
    "Checks that begin processes of their own and do not touch each other, at the same time"
    with ThreadPoolExecutor(len(checks)) as pool: [*pool.map(lambda c: check(*c), checks)]

def sh(*cmd, **kw):
    r = subprocess.run(cmd, capture_output=True, text=True, cwd=kw.pop('cwd', root), stdin=subprocess.DEVNULL, **kw)
    if r.returncode:
        raise RuntimeError(f"{' '.join(map(str, cmd))}: exit code {r.returncode}\n{(r.stdout + r.stderr)[-6000:]}")
    return r.stdout

def unchanged(folder, pattern, *cmd):
    "The command leaves the files as they are committed"
    files = lambda: {p: p.read_bytes() for p in sorted((root/folder).rglob(pattern)) if p.is_file()}
    before = files()
    sh(*cmd)
    after = files()
    changed = [p for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)]
    if changed: raise RuntimeError(f"{' '.join(cmd)} changes {', '.join(p.relative_to(root).as_posix() for p in changed)}")

def imports_of(path):
    "The modules of this package that a module imports, as parts of their names"
    here = path.relative_to(root/'xai_nb').with_suffix('').parts
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield here[:len(here) - node.level] + tuple((node.module or '').split('.'))
        names = [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        yield from (tuple(n.split('.')[1:]) for n in names if n.split('.')[0] == 'xai_nb')

def import_rule():
    "No part imports what it may not"
    wrong = []
    for path in sorted((root/'xai_nb').rglob('*.py')):
        part = path.relative_to(root/'xai_nb').with_suffix('').parts[0]
        if part.startswith('_'): continue
        if part not in MAY: raise RuntimeError(f'the part {part} is not in the import rule')
        reached = {m[0] for m in imports_of(path) if m and m[0]} - {part}
        wrong += [f'{path.relative_to(root).as_posix()}: {part} may not import {p}' for p in sorted(reached - {*MAY[part]})]
    if wrong: raise RuntimeError('\n'.join(wrong))

def short_lines():
    "No line of an exported cell over 120 characters"
    long = []
    for nb in notebooks:
        for c in json.loads(nb.read_text(encoding='utf-8'))['cells']:
            source = ''.join(c['source'])
            if c['cell_type'] != 'code' or not re.search(r'^#\| *export', source, re.M): continue
            long += [f"{nb.relative_to(root).as_posix()}, {len(l)} characters: {l.strip()[:60]} …" for l in source.splitlines() if len(l) > 120]
    if long: raise RuntimeError('\n'.join([*long, f'{len(long)} lines over 120 characters']))

def in_sidebar():
    "Every chapter stands in the sidebar, and every name of the sidebar is a chapter; a template begins with `_`"
    named = re.findall(r'[\w/]+\.ipynb', (root/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))
    there = [p.relative_to(root/'nbs').as_posix() for p in notebooks if p.name[0] != '_']
    if odd := {*named} ^ {*there}: raise RuntimeError(f"in the sidebar or in nbs, but not in both: {', '.join(sorted(odd))}")

def executed(nb):
    "A notebook is committed with the outputs of its cells, none of them an error, and names no machine"
    text = nb.read_text(encoding='utf-8')
    code = [c for c in json.loads(text)['cells'] if c['cell_type'] == 'code']
    if not any(c['outputs'] for c in code): raise RuntimeError('no stored output')
    if any(o['output_type'] == 'error' for c in code for o in c['outputs']): raise RuntimeError('a stored error')
    first = ''.join(json.loads(text)['cells'][0]['source'])
    if any(l and l[0] not in '#>' for l in first.splitlines()): raise RuntimeError('the site shows title and question of the first cell, no more')
    if (m := re.search(r'(/home/|/root/|/tmp/|/Users/|site-packages)[^\s"]*', text)): raise RuntimeError(f'a path of a machine: {m.group()}')

def command_line():
    "The README's first command: the figure, with nothing else at hand"
    with tempfile.TemporaryDirectory() as d:
        sh('xai_ipna', cwd=d)
        made = {p.name for p in Path(d).glob('xai_ipna/*')}
        if missing := {'figure.png', 'curve.png', 'result.json', 'scores.safetensors'} - made:
            raise RuntimeError(f'not written: {missing}')

def named_extra():
    "A command whose extra is missing says what to install"
    r = subprocess.run(['xai_explore', '--no-browser'], capture_output=True, text=True, cwd=tempfile.gettempdir())
    said = r.stderr.strip()
    if r.returncode != 2 or "pip install 'xai_nb[explore]'" not in said or '\n' in said:
        raise RuntimeError(f'exit code {r.returncode}: {said[-2000:]}')

def install(what):
    sh(sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-compile', '-e', what)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def page_text(port):
    "What the page says as soon as there is one"
    for _ in range(120):
        time.sleep(.5)
        try: return urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=120).read().decode()
        except urllib.error.HTTPError as e: raise RuntimeError(f'{e}: {e.read().decode()[-2000:]}')
        except OSError: pass
    return ''

def page():
    "The explorer in the browser, with nothing else at hand: what the page shows comes"
    port, quiet = free_port(), dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as d:
        command = ['xai_explore', '--no-browser', f'--port={port}']
        with subprocess.Popen(command, cwd=d, start_new_session=True, **quiet) as server:
            try:
                if 'IpnaExplorer' not in (text := page_text(port)): raise RuntimeError(f'no explorer on the page: {text[-2000:]}')
            finally: os.killpg(server.pid, signal.SIGTERM)

def load():
    "What every notebook loads, once for all of them: nothing of the package"
    os.environ['OMP_NUM_THREADS'] = '1'
    importlib.invalidate_caches()                                                           # installed since this process began
    for name in 'torch', 'torchvision', 'matplotlib.pyplot', 'nbdev.test': importlib.import_module(name)
    gc.freeze()

def begin(nb, said):
    "Fork: the child does what `nbdev-test NB --flags …` does, and leaves as it leaves; what it says goes to the file"
    flags = ' '.join([os.environ.get('XAI_NB_FLAGS', ''), 'browser'*('browser' in nb.name)]).strip()
    if pid := os.fork(): return pid
    with open(os.devnull) as nothing: os.dup2(nothing.fileno(), 0)
    for stream in 1, 2: os.dup2(said.fileno(), stream)
    os.chdir(root)
    name = nb.relative_to(root).as_posix()
    sys.argv, sys.path[0] = ['nbdev-test', name, '--flags', flags], str(Path(sys.executable).parent)
    from nbdev.test import nbdev_test
    sys.exit(nbdev_test(name, flags=flags))

def run_notebooks():
    "Each notebook in a process of its own, forked from this one; one core each, several at a time, the longest first"
    longest = ['browser', 'integral', 'averages', 'maps', 'traffic_light', 'ipna', 'layers', 'speed', 'atlas', 'train', 'axioms', 'patterns', 'sparsity']
    rank = lambda nb: next((i for i, n in enumerate(longest) if n in nb.name), len(longest))
    todo, running = sorted((nb for nb in notebooks if nb.name[0] != '_'), key=rank), {}     # a template is run by its chapter
    while todo or running:
        waits = any('browser' in nb.name for nb, *_ in running.values())                    # for others, most of its time
        while todo and len(running) < max(1, min(4, os.cpu_count() or 1)) + waits:
            nb, said = todo.pop(0), tempfile.TemporaryFile('w+')
            running[begin(nb, said)] = nb, said, time.time()
        pid, status, used = os.wait4(-1, 0)
        ended(status, used, *running.pop(pid))

def ended(status, used, nb, said, start):
    "A notebook has passed if its process has left in peace, with the word of nbdev-test for it"
    said.seek(0)
    text, code = said.read(), os.waitstatus_to_exitcode(status)
    results.append(ok := code == 0 and 'Success.' in text.splitlines())
    if not ok: print(f'exit code {code}\n{text[-6000:]}', flush=True)
    cpu = used.ru_utime + used.ru_stime
    print(f"{'passed' if ok else 'FAILED'}  {nb.relative_to(root).as_posix()}  ({time.time() - start:.0f} s, {cpu:.0f} s of a core)", flush=True)

def main():
    together(('xai_ipna', command_line), ('xai_explore without its extra', named_extra))
    check("pip install '.[explore]'", lambda: install('.[explore]'))
    check('xai_explore', page)
    check("pip install '.[dev]'", lambda: install('.[dev]'))
    check('export in sync', lambda: unchanged('xai_nb', '*.py', 'nbdev-export'))
    check('notebooks clean', lambda: unchanged('nbs', '*.ipynb', 'nbdev-clean'))
    check('README in sync', lambda: sh(sys.executable, '.ci/readme.py', '--check'))
    check('every notebook in the sidebar', in_sidebar)
    check('import rule', import_rule)
    check('lines of at most 120 characters', short_lines)
    check('ruff', lambda: sh('ruff', 'check', 'xai_nb'))
    for nb in notebooks: check(f'{nb.relative_to(root).as_posix()} executed', lambda: executed(nb))
    check('what every notebook loads', load)
    run_notebooks()
    print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
    sys.exit(not all(results))

if __name__ == '__main__': main()
