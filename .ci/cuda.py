"""What needs a GPU: the cells flagged `#| cuda` in their notebooks, each method against the CPU, shares of bare loops, the benchmark; run by .ci/cuda."""
import argparse, json, os, re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
NBDEV = 'import sys; from nbdev.test import nbdev_test; nbdev_test(sys.argv[1], flags="cuda")'
SLOW_FIRST = 'integral', 'averages', 'nearest', 'traffic_light', 'atlas', 'patterns', 'speed'

def flagged():
    "The notebooks with a cell for a GPU; those that take longest first"
    def has(p): return any(re.search(r'^#\| *cuda', ''.join(c['source']), re.M) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
    rank = lambda p: next((i for i, n in enumerate(SLOW_FIRST) if n in p.name), len(SLOW_FIRST))
    return sorted((p for p in (root/'nbs').rglob('*.ipynb') if has(p) and p.parent.name != 'bench'), key=rank)

def run(cmd, limit, **kw):
    "Exit code and output of a command; 124 where it took too long"
    try: r = subprocess.run(cmd, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, **kw)
    except subprocess.TimeoutExpired as e: return 124, str(e)
    return r.returncode, r.stdout + r.stderr

def notebook(nb, limit, log):
    start, env = time.time(), os.environ | dict(OMP_NUM_THREADS='1')
    name = nb.relative_to(root).as_posix()
    code, said = run([sys.executable, '-c', NBDEV, name], limit, env=env)
    print(f"{'passed' if code == 0 else 'FAILED'}  {name}  ({time.time() - start:.0f} s)", flush=True)
    if code:
        with open(log/'cells.log', 'a') as f: f.write(f'== {name}\n{said[-4000:]}\n')
    return code == 0

def shown(module, limit, *args):
    "Run a module's `main` with its output in sight; did it end well, and in time?"
    cmd = [sys.executable, '-c', f'from {module} import main; main()', *args]
    try: return subprocess.run(cmd, cwd=root, stdin=subprocess.DEVNULL, timeout=limit).returncode == 0
    except subprocess.TimeoutExpired: print(f'{module}: stopped after {limit:.0f} s', flush=True)
    return False

def main():
    p = argparse.ArgumentParser('.ci/cuda', description=__doc__)
    p.add_argument('--device', default='cuda')
    p.add_argument('--small', action='store_true', help='tiny sizes, to try the script')
    p.add_argument('--no-compile', action='store_true', help='without torch.compile')
    p.add_argument('--out', type=Path, default=root/'build'/'cuda', help='a folder for tables, numbers and logs')
    p.add_argument('--parts', nargs='+', choices=['cells', 'methods', 'speed'], default=['cells', 'methods', 'speed'])
    p.add_argument('--limit', type=float, default=360, help='seconds for all of it')
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    end, ok = time.time() + a.limit, []
    left = lambda: max(5, end - time.time())
    if 'methods' in a.parts:
        more = ['--small']*a.small + ['--no-compile']*a.no_compile
        ok.append(shown('xai_nb.bench.gpu', left(), '--device', a.device, '--out', str(a.out), *more))
    if 'cells' in a.parts:
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool: ok += pool.map(lambda nb: notebook(nb, left(), a.out), flagged())
    if 'speed' in a.parts:
        rows = ['atlas'] if a.small else ['ipna', 'conductance', 'stream', 'ig', 'memory', 'methods', 'x_gradient', 'priors', 'atlas', 'patterns']
        ok.append(shown('xai_nb.bench.speed', left(), '--device', a.device, '--json', str(a.out/'speed.json'), '--rows', *rows))
    print(f'{sum(ok)} passed, {len(ok) - sum(ok)} failed')
    sys.exit(not all(ok))

if __name__ == '__main__': main()
