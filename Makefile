# make demo · make test · make bench · make lint · make build
#
# Everything runs on one Debian machine as root with stable Rust; what else is needed is installed
# by scripts/deps.sh with apt-get (Debian packages) and pip (Python packages, in .venv); the lab's
# Kubernetes is built by scripts/kubernetes.sh from Go modules, once.

CARGO ?= cargo
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help build debug kubernetes deps demo test chaos soak bench lint fmt clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

deps: ## install the Debian packages that are missing
	@scripts/deps.sh run

# The plugin is executed once per pod: it is linked statically and for a fixed address, so that it
# starts in well under a millisecond (relocating itself would cost 28 page faults, 0.07 ms) and needs
# nothing of the node it is copied to. An explicit --target keeps the flags away from build scripts
# and procedural macros.
build: ## release binaries in target/release
	@scripts/deps.sh build
	@scripts/kubernetes.sh $(TARGET_DIR)/kubernetes
	$(CARGO) build --release --locked -p branchline -p branchline-agent
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" $(CARGO) build --release --locked -p branchline-cni --target $(TRIPLE)
	@install -m 755 $(TARGET_DIR)/$(TRIPLE)/release/aws-cni $(TARGET_DIR)/release/aws-cni
	@ln -sf branchline $(TARGET_DIR)/release/kubectl-branchline

debug: ## the same binaries, unoptimised, in target/debug: what the tests run
	@scripts/deps.sh build
	@scripts/kubernetes.sh $(TARGET_DIR)/kubernetes
	$(CARGO) build --locked -p branchline -p branchline-agent -p branchline-cni
	@ln -sf branchline $(TARGET_DIR)/debug/kubectl-branchline

kubernetes: ## Kubernetes, CoreDNS and Helm for the lab, from their modules, in target/kubernetes/bin
	@scripts/deps.sh build
	@scripts/kubernetes.sh $(TARGET_DIR)/kubernetes

demo: ## the story of the database that answers only sometimes
	@scripts/deps.sh run
	@scripts/venv.sh
	@$(MAKE) --no-print-directory build
	@BRANCHLINE_BIN=$(TARGET_DIR)/release scripts/demo.sh

test: ## every test; .ci/run calls exactly this
	@scripts/deps.sh run
	@scripts/test.sh

chaos: ## the agent killed in 100 rounds while pods come and go (ROUNDS=, SEED=); ten of them in `make test`
	@scripts/deps.sh run
	@scripts/venv.sh
	@$(MAKE) --no-print-directory debug
	@BRANCHLINE_BIN=$(TARGET_DIR)/debug ROUNDS=$${ROUNDS:-100} .venv/bin/python tests/faults/run.py chaos

# Every episode is a seed; one that fails is printed with the line that repeats it. SEED= where to
# begin, STEPS= how many steps at least (STEPS=1: one episode), TRACE=1 shows each event and effect.
soak: ## the address pool under faults, kills and clocks, 1.5 million steps (SEED= STEPS= TRACE=)
	@SEED=$(SEED) STEPS=$(or $(STEPS),1500000) $(CARGO) test --release --locked -p branchline-agent --test simulation random -- --nocapture

bench: ## the figures of docs/figures.md
	@scripts/deps.sh run
	@scripts/venv.sh
	@$(MAKE) --no-print-directory build
	@BRANCHLINE_BIN=$(TARGET_DIR)/release scripts/bench.sh

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the tree
	$(CARGO) fmt --all

clean: ## remove what the builds made
	$(CARGO) clean
	rm -rf .venv
