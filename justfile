# The commands of this project: `just` lists them (https://just.systems). Each is what CI runs, and can be typed by hand.

default:
    @just --list

# everything that development needs, into the active environment
install:
    pip install -c constraints.txt -e '.[dev]'

# linters, the type checker, and the direction of imports
check:
    ruff check .
    ruff format --check .
    mypy
    pytest -q -n0 tests/test_layers.py

# offline, no GPU, under three minutes
test *options:
    pytest {{options}}

# as on a processor without AVX-512
test-avx2:
    pytest --isa avx2

# the real student, kills, a browser
slow:
    pytest -m slow -n 2 --durations=15

# seeded faults: lying teachers, damaged files, full disks, a hostile crowd; TIMES as many as CI, from SEED on, with their tables
campaign TIMES='10' SEED='0':
    TENNER_CAMPAIGN={{TIMES}} TENNER_CAMPAIGN_SEED={{SEED}} pytest -m slow -s tests/campaign

# the documentation site, into build/site; any warning stops it
docs:
    python scripts/build_docs.py

# a real Slurm on this machine, as root
slurm:
    pytest -m slurm -n 0

# a real vLLM; DIR is where scripts/install_vllm.sh has put it
vllm DIR:
    TENNER_VLLM={{DIR}}/bin/vllm pytest -m vllm -n 2 --dist loadgroup --durations=10

# a real server of the Tinker protocol; DIR is where scripts/install_skyrl.sh has put it
tinker DIR:
    TENNER_SKYRL={{DIR}} pytest -m tinker --durations=10

# one benchmark, as `just bench train_cpu --workloads short`
bench name *options:
    python bench/{{name}}.py {{options}}

# all of it from nothing, with the README's commands
ci:
    .ci/run
