# `make demo` and `make test` set up all that they need; a second run does not set up again.

BIN := .venv/bin
PYTEST := $(BIN)/pytest
# Tests with real packets wait more than they compute: two workers more than cores.
WORKERS := $(shell expr $$(nproc) + 2)
# Some take longer by intention than a test may take (tests/support/bound.py).
soak test-kernel test-cluster test-birthday test-image test-machines: export NETCTL_HANG_S := 0

.PHONY: test-ui screenshots test-cluster release test-pythons test-machines test-fresh sanitize bench-peers test-image deb rpm image lock test-latest test-fleet test-birthday fuzz help setup venv demo test test-pure test-world test-netns test-kernel soak check format bench matrix clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup:  ## Debian packages (as root) and the virtual environment
	@scripts/setup

venv:  ## the virtual environment alone
	@scripts/setup venv

demo: setup  ## the main job, on a small internet in this machine's namespaces
	@$(BIN)/netctl lab demo examples/lan-party.yaml

test: setup  ## every tier of tests
	@scripts/setup kernel || echo 'make: without QEMU and its kernel, the tests of the kernel engine are skipped' >&2
	@scripts/setup nginx || echo 'make: without nginx, the tests of the page behind it are skipped' >&2
	@$(PYTEST) -n $(WORKERS) --durations=10

test-pure: venv  ## pure functions and state machines: about a minute on two cores
	@$(PYTEST) -n 2 --ignore=tests/netns --ignore=tests/kernel --ignore=tests/machines --ignore=tests/release --ignore=tests/world

test-world: venv  ## the simulated world (NETCTL_WORLD_SEEDS=200 is faster)
	@$(PYTEST) tests/world

test-netns: setup  ## real packets in network namespaces
	@$(PYTEST) -n $(WORKERS) --durations=10 tests/netns

test-pythons:  ## the pure tests and a slice of the world on each of Python 3.11 to 3.14 that is here (minutes)
	@scripts/test-pythons

soak: setup  ## long runs: keys renewed under load, and what must not grow (minutes)
	@$(PYTEST) -o addopts="-ra --import-mode=importlib" tests/soak

test-kernel: setup  ## the kernel's own WireGuard: Debian's cloud kernel under QEMU
	@scripts/setup kernel
	@NETCTL_KERNEL_LONG=1 $(PYTEST) tests/kernel/test_kernel_guest.py

test-cluster: setup  ## mediators, bus and PostgreSQL killed and cut off 50 times: nothing acknowledged is lost or doubled (NETCTL_STORE_SEED=n: another run)
	@NETCTL_STORE_ROUNDS=50 $(PYTEST) -s tests/mediator/test_store_killed.py tests/mediator/test_cluster_history.py

test-birthday: setup  ## the birthday method twenty times, each in a lab of its own: minutes
	@$(PYTEST) -m birthday -s tests/netns/test_hard_nats_real.py

test-latest:  ## every test against the newest packages that pyproject.toml admits, in an environment of its own
	@scripts/setup newest
	@scripts/setup kernel || echo 'make: without QEMU and its kernel, the tests of the kernel engine are skipped' >&2
	@scripts/setup nginx || echo 'make: without nginx, the tests of the page behind it are skipped' >&2
	@.venv-newest/bin/pytest -n $(WORKERS)

lock:  ## renew requirements/: what make, CI, roles and the action install, with hashes
	@scripts/lock

deb: setup  ## Debian packages for Debian 12, 13 and Ubuntu 24.04, in dist/ (DISTRIBUTIONS=debian12: one)
	@scripts/lock --tool
	@$(BIN)/python packaging/build.py deb $(DISTRIBUTIONS)

rpm: setup  ## RPM packages for Fedora, in dist/
	@scripts/setup rpm
	@scripts/lock --tool
	@$(BIN)/python packaging/build.py rpm $(DISTRIBUTIONS)

image: deb  ## container images netctl-member and netctl-mediator, by buildah (BASE=image: of Debian 12)
	@scripts/setup image
	@packaging/container/build $(BASE)

release: setup  ## sdist, wheels, packages, images, SBOM, provenance, SHA256SUMS, in dist/VERSION (RELEASE="--part python": less)
	@scripts/setup rpm
	@scripts/setup image
	@scripts/lock --tool
	@$(BIN)/python packaging/release.py $(RELEASE)

test-image: setup  ## the container images: built, and a mediator with two members run (minutes)
	@scripts/setup image
	@scripts/lock --tool
	@$(PYTEST) -m images tests/machines/test_image.py

test-machines: setup  ## three machines with a real systemd, on Debian 12, 13 and Ubuntu 24.04, and Fedora's package: minutes
	@scripts/setup rpm
	@NETCTL_MACHINES=debian12,debian13,ubuntu24.04,fedora42 $(PYTEST) -s tests/machines

test-ui: setup  ## the page in a real Chromium, with axe-core, behind a real nginx, and over a lab of six members (minutes; fetches all three)
	@scripts/setup ui
	@$(PYTEST) -m browser tests/ui
	@$(PYTEST) -m "not browser" tests/ui/test_page_nginx.py

screenshots: setup  ## docs/ui/: the page in light, dark and on a phone (minutes: the plots fill)
	@scripts/setup ui
	@NETCTL_SCREENSHOTS=100 $(PYTEST) -q -m browser -k test_pictures tests/ui

test-fresh: setup  ## make demo and make test in a fresh clone on fresh Debian 12, 13, Ubuntu 24.04 (FRESH=debian12 SLICE=tests/plan: less)
	@scripts/setup fresh
	@$(BIN)/python tests/machines/fresh.py $(if $(FRESH),--on $(FRESH)) $(if $(SLICE),--slice "$(SLICE)")

test-fleet: setup  ## sixteen hosts with real sshd, rolled out by real Ansible: minutes
	@NETCTL_FLEET_HOSTS=16 $(PYTEST) tests/netns/test_fleet_real.py

check: venv  ## lint, format, types, floors
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: venv  ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## every benchmark; each prints ratios against a peer measured in the same run
	@set -e; for bench in $(filter-out bench/matrix.py,$(wildcard bench/*.py)); do echo "== $$bench"; $(BIN)/python $$bench; done

matrix: setup  ## docs/connectivity.md: every pair of kinds of NAT, direct or not, and how soon (minutes)
	@$(BIN)/python bench/matrix.py $(MATRIX)
	@$(BIN)/python bench/matrix.py --families

fuzz: venv  ## every decoder under atheris, and the data path in C under libFuzzer, a minute each (installs atheris)
	@$(BIN)/pip install -q atheris
	@$(BIN)/python tests/fuzz/fuzz_tunnel.py -max_total_time=60
	@$(BIN)/python tests/fuzz/fuzz_decoders.py -max_total_time=60
	@$(BIN)/python tests/fuzz/fuzz_sockets.py -max_total_time=60
	@if command -v clang > /dev/null; then tests/fuzz/native.sh 60; else tests/fuzz/native.sh rounds 1000000; fi

sanitize: setup  ## real packets through netctl-wg, its C code under ASan and UBSan, then ThreadSanitizer; valgrind: minutes
	@tests/fuzz/sanitized.sh
	@SANITIZER=thread tests/fuzz/sanitized.sh
	@if command -v valgrind > /dev/null; then tests/fuzz/native.sh valgrind 20000; fi

bench-peers: setup  ## docs/performance.md's comparison with the newest of others (as root, 45 minutes of a quiet machine; `bench/peers list`)
	@bench/peers

clean:  ## remove the virtual environment and caches
	rm -rf .venv .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
