"What is said of the package stands in settings.ini, its version in xai_nb/__init__.py."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_name']

extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}
extras['dev'] = sorted({r for v in extras.values() for r in v})

setup(
    version = re.search(r"__version__ = ['\"](.+?)['\"]", (here/lib/'__init__.py').read_text(encoding='utf-8')).group(1),
    description = cfg['description'],
    long_description = (here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type = 'text/markdown',
    author = cfg['author'],
    keywords = cfg['keywords'].split(),
    python_requires = '>=' + cfg['min_python'],
    install_requires = cfg['requirements'].split(),
    extras_require = extras,
    entry_points = {'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    packages = find_packages(include=[lib, f'{lib}.*']),
    package_data = {lib: ['py.typed', 'io/*.safetensors']},
)
