# `make demo` and `make test` install everything they need the first time; later runs find it installed.

BIN := .venv/bin
PYTEST := $(BIN)/pytest
# Two workers more than cores: tests with real packets wait more than they compute.
WORKERS := $(shell expr $$(nproc) + 2)
# These tests are meant to run longer than tests/support/bound.py allows.
soak test-thousands test-kernel test-cluster test-birthday test-image test-machines: export NETCTL_HANG_S := 0

.PHONY: test-thousands test-ui screenshots test-cluster release test-pythons test-machines test-fresh sanitize bench-peers test-image deb rpm image lock test-latest test-fleet test-birthday fuzz help setup venv demo test test-pure test-world test-netns test-kernel soak check format bench matrix clean

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup:  ## install Debian packages (as root) and make the virtual environment
	@scripts/setup

venv:  ## make the virtual environment alone
	@scripts/setup venv

demo: setup  ## show netctl's main job, on a small internet inside this machine's network namespaces
	@$(BIN)/netctl lab demo examples/lan-party.yaml

test: setup  ## run every tier of tests
	@scripts/setup kernel || echo 'make: without QEMU and its kernel, the tests of the kernel engine are skipped' >&2
	@scripts/setup nginx || echo 'make: without nginx, the tests of the page behind it are skipped' >&2
	@scripts/setup networkmanager || echo 'make: without NetworkManager, the tests beside it are skipped' >&2
	@$(PYTEST) -n $(WORKERS) --durations=10

test-pure: venv  ## test pure functions and state machines: about a minute on two cores
	@$(PYTEST) -n 2 --ignore=tests/netns --ignore=tests/kernel --ignore=tests/machines --ignore=tests/release --ignore=tests/world

test-world: venv  ## run the tests in the simulated world (NETCTL_WORLD_SEEDS=200 NETCTL_WORLD_CLUSTER_SEEDS=100: faster)
	@$(PYTEST) tests/world

test-netns: setup  ## run the tests with real packets, in network namespaces
	@scripts/setup networkmanager || echo 'make: without NetworkManager, the tests beside it are skipped' >&2
	@$(PYTEST) -n $(WORKERS) --durations=10 tests/netns

test-pythons:  ## run the pure tests and a slice of the world on each installed Python from 3.11 to 3.14 (minutes)
	@scripts/test-pythons

soak: setup  ## run for long under load: keys are renewed, and memory and files must not grow (minutes)
	@$(PYTEST) -o addopts="-ra --import-mode=importlib" tests/soak

test-kernel: setup  ## test with the kernel's own WireGuard, and a host that is suspended: Debian's cloud kernel under QEMU
	@scripts/setup kernel
	@NETCTL_KERNEL_LONG=1 $(PYTEST) -s --durations=0 tests/kernel/test_kernel_guest.py tests/kernel/test_suspend_guest.py

test-cluster: setup  ## kill and cut off mediators, bus and PostgreSQL 50 times: nothing acknowledged is lost or doubled (NETCTL_STORE_SEED=N: another run; minutes)
	@NETCTL_STORE_ROUNDS=50 $(PYTEST) -s tests/mediator/test_store_killed.py tests/mediator/test_cluster_history.py

test-thousands: setup  ## run forty agents in a network with two thousand more members, which are never online (minutes)
	@NETCTL_LAB_AGENTS=40 $(PYTEST) -s tests/netns/test_thousands_real.py

test-birthday: setup  ## punch through two hard NATs by the birthday method twenty times, each in a lab of its own (minutes)
	@$(PYTEST) -m birthday -s tests/netns/test_hard_nats_real.py

test-latest:  ## run every test with the newest packages that pyproject.toml admits, in an environment of its own
	@scripts/setup newest
	@scripts/setup kernel || echo 'make: without QEMU and its kernel, the tests of the kernel engine are skipped' >&2
	@scripts/setup nginx || echo 'make: without nginx, the tests of the page behind it are skipped' >&2
	@scripts/setup networkmanager || echo 'make: without NetworkManager, the tests beside it are skipped' >&2
	@.venv-newest/bin/pytest -n $(WORKERS)

lock:  ## renew requirements/, the locked packages that make, CI, roles and the action install
	@scripts/lock

deb: setup  ## build packages for Debian 12, 13 and Ubuntu 24.04, in dist/ (DISTRIBUTIONS=debian12: for one)
	@scripts/lock --tool
	@$(BIN)/python packaging/build.py deb $(DISTRIBUTIONS)

rpm: setup  ## build packages for Fedora, in dist/
	@scripts/setup rpm
	@scripts/lock --tool
	@$(BIN)/python packaging/build.py rpm $(DISTRIBUTIONS)

image: deb  ## build the container images netctl-member and netctl-mediator with buildah (BASE=IMAGE: another image of Debian 12)
	@scripts/setup image
	@packaging/container/build $(BASE)

release: setup  ## build sdist, wheels, packages, images, SBOM, provenance and SHA256SUMS, in dist/VERSION (RELEASE="--part python": less)
	@scripts/setup rpm
	@scripts/setup image
	@scripts/lock --tool
	@$(BIN)/python packaging/release.py $(RELEASE)

test-image: setup  ## build the container images, run a mediator and two members in them, and the compose files by podman-compose and by Docker (minutes)
	@scripts/setup image
	@scripts/lock --tool
	@$(PYTEST) -m images tests/machines/test_image.py

test-machines: setup  ## install and run on machines with a real systemd: Debian 12, 13, Ubuntu 24.04, Fedora (minutes)
	@scripts/setup rpm
	@NETCTL_MACHINES=debian12,debian13,ubuntu24.04,fedora42 $(PYTEST) -s tests/machines

test-ui: setup  ## test the page in a real Chromium with axe-core, behind a real nginx, and in a lab of six members (minutes; fetches all three)
	@scripts/setup ui
	@$(PYTEST) -m browser tests/ui
	@$(PYTEST) -m "not browser" tests/ui/test_page_nginx.py

screenshots: setup  ## make the pictures in docs/ui: the page in light, in dark and on a phone (minutes, until the plots are full)
	@scripts/setup ui
	@NETCTL_SCREENSHOTS=100 $(PYTEST) -q -m browser -k test_pictures tests/ui

test-fresh: setup  ## run make demo and make test in a fresh clone on fresh Debian 12, 13, Ubuntu 24.04 (FRESH=debian12 SLICE=tests/plan: less)
	@scripts/setup fresh
	@$(BIN)/python tests/machines/fresh.py $(if $(FRESH),--on $(FRESH)) $(if $(SLICE),--slice "$(SLICE)")

test-fleet: setup  ## roll out to sixteen hosts with a real sshd by a real Ansible (minutes)
	@NETCTL_FLEET_HOSTS=16 $(PYTEST) tests/netns/test_fleet_real.py

check: venv  ## check lint, format, types and imports between floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: venv  ## let ruff format the code and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## run every benchmark; each prints ratios to another program, measured in the same run
	@set -e; for bench in $(filter-out bench/matrix.py,$(wildcard bench/*.py)); do echo "== $$bench"; $(BIN)/python $$bench; done

matrix: setup  ## make docs/connectivity.md: for every pair of kinds of NAT, whether it is direct, and how soon (minutes)
	@$(BIN)/python bench/matrix.py $(MATRIX)
	@$(BIN)/python bench/matrix.py --families

fuzz: venv  ## fuzz every decoder with atheris, and the data path in C with libFuzzer, a minute each (installs atheris)
	@$(BIN)/pip install -q atheris
	@$(BIN)/python tests/fuzz/fuzz_tunnel.py -max_total_time=60
	@$(BIN)/python tests/fuzz/fuzz_decoders.py -max_total_time=60
	@$(BIN)/python tests/fuzz/fuzz_sockets.py -max_total_time=60
	@if command -v clang > /dev/null; then tests/fuzz/native.sh 60; else tests/fuzz/native.sh rounds 1000000; fi

sanitize: setup  ## run the C code of netctl-wg with real packets under ASan and UBSan, ThreadSanitizer and valgrind (minutes)
	@tests/fuzz/sanitized.sh
	@SANITIZER=thread tests/fuzz/sanitized.sh
	@if command -v valgrind > /dev/null; then tests/fuzz/native.sh valgrind 20000; fi

bench-peers: setup  ## compare with the newest versions of other programs, for docs/performance.md (as root, 45 minutes of a quiet machine; `bench/peers list`)
	@bench/peers

clean:  ## remove virtual environments, caches and built files
	rm -rf .venv .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
