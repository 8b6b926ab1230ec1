"""Every check of the project, one after another, from the root of a copy of the checkout; run by .ci/run."""
import json, os, re, signal, socket, subprocess, sys, tempfile, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
notebooks = sorted((root/'nbs').glob('*.ipynb'))
results = []

def check(name, f):
    "Run one check; whatever it raises is a failure"
    start = time.time()
    try: f(); ok = True
    except (Exception, SystemExit) as e:
        ok = False
        print(e, flush=True)
    results.append(ok)
    print(f"{'passed' if ok else 'FAILED'}  {name}  ({time.time() - start:.0f} s)", flush=True)

def sh(*cmd, **kw):
    r = subprocess.run(cmd, capture_output=True, text=True, cwd=kw.pop('cwd', root), stdin=subprocess.DEVNULL, **kw)
    if r.returncode: raise RuntimeError(f"{' '.join(map(str, cmd))}: exit code {r.returncode}\n{(r.stdout + r.stderr)[-6000:]}")
    return r.stdout

def files(pattern): return {p: p.read_bytes() for p in sorted(root.glob(pattern))}

def unchanged(pattern, *cmd):
    "The command leaves the files as they are committed"
    before = files(pattern)
    sh(*cmd)
    after = files(pattern)
    changed = [p.relative_to(root).as_posix() for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)]
    if changed: raise RuntimeError(f"{' '.join(cmd)} changes {', '.join(changed)}")

def executed(nb):
    "A notebook is committed with the outputs of its cells, none of them an error, and names no machine"
    text = nb.read_text(encoding='utf-8')
    code = [c for c in json.loads(text)['cells'] if c['cell_type'] == 'code']
    if not any(c['outputs'] for c in code): raise RuntimeError('no stored output')
    if any(o['output_type'] == 'error' for c in code for o in c['outputs']): raise RuntimeError('a stored error')
    if (m := re.search(r'(/home/|/root/|/tmp/|/Users/|site-packages)[^\s"]*', text)): raise RuntimeError(f'a path of a machine: {m.group()}')

def command_line():
    "The README's first command: the figure, with nothing else at hand"
    with tempfile.TemporaryDirectory() as d:
        sh('xai_ipna', cwd=d)
        made = {p.name for p in Path(d).glob('xai_ipna/*')}
        if missing := {'figure.png', 'curve.png', 'result.json', 'scores.safetensors'} - made: raise RuntimeError(f'not written: {missing}')

def page():
    "The explorer in the browser, with nothing else at hand: what the page shows comes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as d, subprocess.Popen(['xai_explore', '--no-browser', f'--port={port}'], cwd=d, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            for _ in range(120):
                time.sleep(.5)
                try: text = urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=120).read().decode(); break
                except urllib.error.HTTPError as e: raise RuntimeError(f'{e}: {e.read().decode()[-2000:]}')
                except OSError: text = ''
            if 'IpnaExplorer' not in text: raise RuntimeError(f'no explorer on the page: {text[-2000:]}')
        finally: os.killpg(server.pid, signal.SIGTERM)

check('xai_ipna', command_line)
check('xai_explore', page)
check('what the tests need', lambda: sh(sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-e', '.[dev]'))
check('export in sync', lambda: unchanged('xai_nb/*.py', 'nbdev-export'))
check('notebooks clean', lambda: unchanged('nbs/*.ipynb', 'nbdev-clean'))
check('README in sync', lambda: sh(sys.executable, '.ci/readme.py', '--check'))
for nb in notebooks: check(f'{nb.name} executed', lambda: executed(nb))
env = os.environ | dict(OMP_NUM_THREADS='1')                                    # one core each, several at a time
with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
    for nb in notebooks:
        flags = os.environ.get('XAI_NB_FLAGS', '') + ' browser'*('browser' in nb.name)
        pool.submit(check, nb.name, lambda nb=nb, flags=flags: sh('nbdev-test', str(nb.relative_to(root)), '--flags', flags.strip(), env=env))
print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
sys.exit(not all(results))
