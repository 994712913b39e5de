# SPDX-License-Identifier: Apache-2.0

SHELL      := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO          ?= go
ARCHES      := amd64 arm64 arm
VERSION     ?= $(shell packaging/version)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 20s
RESULTS     := build/results
# Packages with tests that boot virtual machines, by their build tag.
VMPACKAGES   = $(shell grep -rl --include='*_test.go' --exclude-dir=build '^//go:build vmhost' . | xargs -r -n1 dirname | sort -u)

# Static on every platform; only the race detector needs the C compiler.
export CGO_ENABLED = 0
export GOARM = 7

# $(call step,NAME,COMMAND): run a check, and record it for the summary of `make test`.
record = $(GO) run ./test/tools/results -dir $(RESULTS) -step $(1)
step = @echo "--- $(1)"; if $(2); then $(record) -passed; else $(record) -failed; fi
comma := ,

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

.PHONY: build
build: ## Static, stripped binaries: build/bin/{amd64,arm64,arm}/imxcrypt
	@for arch in $(ARCHES); do \
		GO=$(GO) packaging/build $$arch build/bin/$$arch/imxcrypt ./cmd/imxcrypt "$(VERSION)"; \
		stat --format '%s bytes  %n' build/bin/$$arch/imxcrypt; \
	done

# Where `make install` puts files, below DESTDIR; packaging/install has more.
PREFIX ?= /usr
GOARCH ?= $(shell uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/; s/^arm.*/arm/')
BINARY  = build/bin/$(GOARCH)/imxcrypt

.PHONY: install
install: ## Install into DESTDIR: program, generator, units, initramfs hooks, manual, completions, docs (GOARCH chooses the build)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSTEMDDIR="$(SYSTEMDDIR)" UDEVDIR="$(UDEVDIR)" DOCDIR="$(DOCDIR)" \
		INITRAMFSTOOLSDIR="$(INITRAMFSTOOLSDIR)" DRACUTDIR="$(DRACUTDIR)" packaging/install $(BINARY)

.PHONY: docs
docs: ## Write what is generated: the rows of internal/fault, docs/man, docs/troubleshooting.md
	IMXCRYPT_UPDATE=1 $(GO) test -count=1 -run UpToDate ./internal/fault/manual
	IMXCRYPT_UPDATE=1 $(GO) test -count=1 -run 'UpToDate' ./cmd/imxcrypt

.PHONY: site
site: ## The documentation as a static site, build/site (hugo)
	@packaging/site/build build/site

.PHONY: screens
screens: ## Screens of the site, of a monitor and of a phone, build/screens
	IMXCRYPT_SCREENS=1 $(GO) test -count=1 -run TestScreens ./test/site

.PHONY: setup
setup: ## Install what the tests need (Debian packages; only those missing)
	@test/tools/setup

.PHONY: check
check: gofmt $(ARCHES:%=vet-%) staticcheck deadcode ## gofmt, go vet, staticcheck and deadcode, for every architecture and build tag

.PHONY: gofmt
gofmt:
	$(call step,gofmt,test/tools/gofmt)

.PHONY: $(ARCHES:%=vet-%)
$(ARCHES:%=vet-%): vet-%:
	$(call step,$@,$(if $(filter amd64,$*),GOOS=linux GOARCH=$* $(GO) vet ./... &&) GOOS=linux GOARCH=$* $(GO) vet -tags vm$(comma)vmhost ./...)

.PHONY: staticcheck
staticcheck:
	$(call step,$@,$(GO) run $(STATICCHECK) ./... && $(GO) run $(STATICCHECK) -tags vm$(comma)vmhost ./...)

.PHONY: deadcode
deadcode:
	$(call step,$@,test/tools/deadcode)

.PHONY: short
short: ## The inner loop: unit tests with a slice of the crash states (durations: CONTRIBUTING.md)
	@$(GO) test -short ./...

.PHONY: unit
unit: ## Unit tests with the race detector, fuzz seeds included
	@# `make check` vets.
	@CGO_ENABLED=1 $(GO) test -race -vet=off -timeout 75m -json ./... | $(GO) run ./test/tools/results -dir $(RESULTS) -step unit
	@# The race detector gets a slice of the crash states; here are all of make test's.
	@$(GO) test -vet=off -timeout 75m -json ./volume ./reencrypt ./sleep ./internal/ext4shrink | $(GO) run ./test/tools/results -dir $(RESULTS) -step crash

.PHONY: cross
cross: $(ARCHES:%=cross-%) ## Build every package for every architecture

.PHONY: $(ARCHES:%=cross-%)
$(ARCHES:%=cross-%): cross-%:
	$(call step,$@,GOOS=linux GOARCH=$* $(GO) build ./...)

.PHONY: vmtest
vmtest: ## Tests in virtual machines: amd64, arm64, and 32-bit arm under arm64
	@# How many have machines at once: test/vm/places.go (IMXCRYPT_VMS).
	@$(GO) test -tags vmhost -vet=off -count=1 -p 4 -parallel 16 -timeout 80m -json $(VMPACKAGES) \
		| $(GO) run ./test/tools/results -dir $(RESULTS) -step vmtest -v

.PHONY: test
test: ## All of the above, and a summary; what CI runs
	@test/tools/test-all

.PHONY: demo
demo: setup ## A virtual board from provisioning to unlocking at boot, on one screen; SOURCE=trusted on mainline's kernel; recorded in build/demo.cast
	@mkdir -p build
	@$(GO) run ./test/demo -source $(or $(SOURCE),caam) -cast build/demo.cast

.PHONY: bench
bench: setup ## Time to mount, memory, size and sector sizes in virtual machines, against the shell recipe; then Go's benchmarks
	@for arch in amd64 arm64; do $(GO) run ./test/bench -arch $$arch -sectors=false; $(GO) run ./test/bench -arch $$arch -instructions -rounds 5; done
	@$(GO) run ./test/bench -source trusted -rounds 11
	@$(GO) run ./test/bench -ciphers
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: bench-rotate
bench-rotate: setup ## How fast a volume is rotated, beside cryptsetup and the limit, and what programs wait meanwhile
	@$(GO) run ./test/rotatebench

.PHONY: soak
soak: setup ## The long tests, whole (hours)
	IMXCRYPT_SOAK=1 $(GO) test -count=1 -timeout 0 ./...
	IMXCRYPT_SOAK=1 $(GO) test -tags vmhost -count=1 -p 4 -parallel 16 -timeout 0 $(VMPACKAGES)

.PHONY: fuzz
fuzz: ## Fuzz each parser for FUZZTIME (default 20s)
	@test/tools/fuzz $(FUZZTIME)

.PHONY: clean
clean: ## Remove what was built, keep what was downloaded
	rm -rf build/bin build/site build/screens build/results build/vm build/vm-logs build/simcaam build/mainline build/mainline-7.x
