# Two commands do everything: `make up` and `make test`. See README.md.

SHELL := /bin/bash
TARGET ?= $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
DATA_DIR ?= $(CURDIR)/.roost
UP_FLAGS ?=
GUEST_TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
GUEST_DIR := $(TARGET)/$(GUEST_TRIPLE)/guest
# roostd needs root for namespaces, mounts, cgroups and nftables, and so do its
# tests. Cargo itself runs as you: what root owns in $(TARGET) is in your way.
AS_ROOT := $(CURDIR)/scripts/as-root
TEST_RUNNER := CARGO_TARGET_$(shell echo $(GUEST_TRIPLE) | tr a-z- A-Z_)_RUNNER=$(AS_ROOT)

# What VMs boot: a kernel, and roost-init as their first process. It is next to
# the programs as `guest`.
GUEST_KERNEL := $(TARGET)/guest-kernel
# Every guest holds roost-init in memory.
ROOST_INIT_BYTES_MAX := 4194304

.PHONY: help setup setup-tests guest guest-kernel kernel build up down test test-crash test-kvm test-simulation test-load lint bench release clean

help:
	@echo "make up       build, start a one-node platform, deploy the example, print its URL"
	@echo "make down     stop it and remove every trace (keeps the build)"
	@echo "make test     every check and every test"
	@echo "make test-crash  kill -9 of roostd at every point of its work (POINT=stop:exit-seen:1 for one)"
	@echo "make test-simulation  the control plane over 1,000 simulated nodes with 50,000 machines"
	@echo "make test-load  500 clients while releases roll, roostd restarts, a machine is killed and the API is away"
	@echo "make test-kvm tests of VMs on KVM, inside an emulated machine (needs no KVM here)"
	@echo "make lint     format, tidy, clippy, docs: warnings are errors"
	@echo "make bench    ratios against named peers (PARTS='vm memory' for some of: idle start pull vm memory placement orchestrator edge; ROWS='HTTP/2,idle' for some of edge)"
	@echo "make kernel   build a slim kernel for VMs from Debian's source (half an hour)"
	@echo "make release  an archive with the programs in dist/"

setup:
	@scripts/setup

setup-tests:
	@scripts/setup --tests

# Programs that are put into images and VMs: one static executable each.
guest:
	@RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --profile guest \
		--target $(GUEST_TRIPLE) -p roost-serve -p roost-init -p hello
	@size=$$(stat -c %s $(GUEST_DIR)/roost-init); if (( size > $(ROOST_INIT_BYTES_MAX) )); then \
		echo "guest: roost-init has $$size bytes, more than $(ROOST_INIT_BYTES_MAX)" >&2; exit 1; fi
	@mkdir -p $(GUEST_KERNEL)
	@cp $(GUEST_DIR)/roost-init $(GUEST_KERNEL)/roost-init.new && mv $(GUEST_KERNEL)/roost-init.new $(GUEST_KERNEL)/roost-init
	@mkdir -p examples/hello/dist
	@cp $(GUEST_DIR)/hello examples/hello/dist/hello.new && mv examples/hello/dist/hello.new examples/hello/dist/hello

# Debian's kernel for VMs.
guest-kernel:
	@scripts/guest-kernel
	@mkdir -p $(GUEST_KERNEL) $(TARGET)/debug $(TARGET)/release
	@ln -sfn ../guest-kernel $(TARGET)/debug/guest
	@ln -sfn ../guest-kernel $(TARGET)/release/guest

kernel: guest-kernel
	@scripts/guest-kernel --slim

build: setup guest guest-kernel
	@echo "build: release programs (the first time takes some minutes)"
	@cargo build --locked --release -p roostd -p roost-cli -p roost-shim -p roost-vm
	@cp $(GUEST_DIR)/roost-serve $(TARGET)/release/roost-serve.new && mv $(TARGET)/release/roost-serve.new $(TARGET)/release/roost-serve

up: build
	@$(AS_ROOT) $(TARGET)/release/roost up --data-dir $(DATA_DIR) --deploy examples/hello $(UP_FLAGS)

down:
	@$(AS_ROOT) $(TARGET)/release/roost down --data-dir $(DATA_DIR) --yes

lint:
	@cargo xtask ci

# Clippy and docs first, then debug programs for the end-to-end tests, then all tests.
test: setup-tests
	@cargo xtask ci
	@$(MAKE) --no-print-directory guest guest-kernel
	@cargo build --locked --workspace
	@cp $(GUEST_DIR)/roost-serve $(TARGET)/debug/roost-serve.new && mv $(TARGET)/debug/roost-serve.new $(TARGET)/debug/roost-serve
	@$(TEST_RUNNER) scripts/run-tests

# Debug programs: a release build cannot be told to die.
test-crash: setup-tests
	@$(MAKE) --no-print-directory guest guest-kernel
	@cargo build --locked -p roostd -p roost-cli -p roost-shim -p roost-vm
	@cp $(GUEST_DIR)/roost-serve $(TARGET)/debug/roost-serve.new && mv $(TARGET)/debug/roost-serve.new $(TARGET)/debug/roost-serve
	@$(TEST_RUNNER)" env ROOST_CRASH_POINTS=$(or $(POINT),all)" \
		cargo test --locked -p roost-testkit --test crash -- --nocapture

# The real control plane over 1,000 simulated nodes with 50,000 machines.
test-simulation:
	@ROOST_SIMULATION_NODES=1000 cargo test --locked --release -p roost-api --test simulation \
		thousand -- --nocapture

# The same test as in `make test`, with more clients.
test-load: setup-tests
	@$(MAKE) --no-print-directory guest guest-kernel
	@cargo build --locked -p roostd -p roost-cli -p roost-shim -p roost-vm
	@cp $(GUEST_DIR)/roost-serve $(TARGET)/debug/roost-serve.new && mv $(TARGET)/debug/roost-serve.new $(TARGET)/debug/roost-serve
	@$(TEST_RUNNER)" env ROOST_LOAD_CLIENTS=$(or $(CLIENTS),500)" \
		cargo test --locked -p roost-testkit --test load -- --nocapture

# VMs on KVM, inside an emulated machine; ROOST_FIRECRACKER=PATH adds Firecracker.
test-kvm: setup-tests
	@$(MAKE) --no-print-directory guest guest-kernel
	@scripts/test-kvm

bench: build setup-tests
	@cargo build --locked --release -p roost-testkit -p roost-image --example bench --example pull
	@$(AS_ROOT) $(TARGET)/release/examples/bench $(PARTS)

release: build
	@rm -rf dist && mkdir -p dist/roost
	@cp $(TARGET)/release/{roostd,roost,roost-shim,roost-vm,roost-serve} LICENSE README.md dist/roost/
	@mkdir dist/roost/guest
	@cp -r $(addprefix $(GUEST_KERNEL)/,vmlinuz modules RELEASE COPYRIGHT roost-init $(if $(wildcard $(GUEST_KERNEL)/own/PACKAGE),own)) dist/roost/guest/
	@tar --sort=name --owner=0 --group=0 --numeric-owner -C dist -czf dist/roost-$(GUEST_TRIPLE).tar.gz roost
	@(cd dist && sha256sum roost-$(GUEST_TRIPLE).tar.gz | tee SHA256SUMS)

clean:
	@cargo clean
	@rm -rf dist examples/hello/dist
