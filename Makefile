# Everything that a user and a developer types. `make up` and `make test` are all that is needed to begin.

PROFILE ?= release
PINTLE ?= target/$(PROFILE)/pintle
DATA_DIR ?= /var/lib/pintle
PREFIX ?= /usr/local
UNITDIR ?= /etc/systemd/system
DESTDIR ?=
CARGO ?= cargo

.PHONY: up down test lint bench install uninstall build deps-run help fuzz-smoke

help:
	@echo 'make up      bring up a cluster with the demo on this machine (root)'
	@echo 'make down    end it and remove every trace'
	@echo 'make test    all tests (root; up to 40 minutes from a clean clone on 2 cores)'
	@echo 'make lint    rustfmt and clippy, warnings are errors'
	@echo 'make bench   the figures of benches/RESULTS.md'
	@echo 'make install binary to $(PREFIX)/bin, units to $(UNITDIR)'

up:
	@PROFILE=$(PROFILE) DATA_DIR=$(DATA_DIR) CARGO=$(CARGO) examples/up.sh

down:
	@if [ -x $(PINTLE) ]; then $(PINTLE) down --data-dir $(DATA_DIR) --purge; fi
	@rm -rf target/images

build:
	@xtask/deps.sh build
	$(CARGO) build --profile $(PROFILE) -p pintle

test:
	@xtask/deps.sh build run demo test vm
	tests/run.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) run -q -p pintle-xtask -- tidy

bench:
	@xtask/deps.sh build run demo test bench
	benches/run.sh

install: build
	install -Dm755 $(PINTLE) $(DESTDIR)$(PREFIX)/bin/pintle
	@for unit in systemd/*.service systemd/*.target systemd/*.slice; do \
		[ -e "$$unit" ] || continue; install -Dm644 "$$unit" "$(DESTDIR)$(UNITDIR)/$$(basename $$unit)"; done
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl daemon-reload

uninstall:
	@for unit in systemd/*.service systemd/*.target systemd/*.slice; do rm -f "$(DESTDIR)$(UNITDIR)/$$(basename $$unit)"; done
	rm -f $(DESTDIR)$(PREFIX)/bin/pintle
