# `make` alone says what there is. Everything that takes more than a line is in deploy/dev/.

SERVERS := deploy/dev/servers.sh
# More arguments for the program that a target runs, as in: make test ARGS='--test it crash'
ARGS ?=

# `run`, `demo`, `clients` and `test` share the debug build: it takes a third of the time of a
# release build. `build`, `bench`, `chaos` and `soak` are about speed, or run under load.

# How long `make torture` tries fresh cases, and `make soak` lasts.
SECONDS ?= 60

.PHONY: help build run demo clients test torture soak chaos bench down lint fmt clean-dev prerequisites

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: prerequisites ## the release build (target/release/chat-counters)
	cargo build --release --locked

run: prerequisites ## start the servers, build (debug), and run the service until Ctrl-C
	@exec deploy/dev/run.sh $(ARGS)

demo: prerequisites ## send a chat scenario through the broker and check every counter
	@$(SERVERS) up
	cargo build --locked --bin chat-counters --example demo
	@eval "$$($(SERVERS) env)" && exec target/debug/examples/demo $(ARGS)

clients: prerequisites ## the client examples (curl, Python, TypeScript, a page in Chromium), on servers of its own
	@deploy/dev/client-prerequisites.sh
	@# Together with the demo, as for that: alone it would be another build.
	cargo build --locked --bin chat-counters --example demo
	@exec $(SERVERS) with clients tests/clients/run.sh $(ARGS)

test: prerequisites ## the whole test suite, on servers of its own
	@exec $(SERVERS) with test deploy/dev/test.sh $(ARGS)

torture: prerequisites ## try fresh random cases against the model for SECONDS=60, on servers of its own
	@exec $(SERVERS) with torture deploy/dev/torture.sh $(SECONDS)

soak: prerequisites ## hostile clients of each kind beside well-behaved ones for SECONDS=60, on servers of its own
	@exec $(SERVERS) with soak env SOAK_SECONDS=$(SECONDS) cargo test --release --locked --test it -- soak --nocapture

chaos: prerequisites ## fault runs on clusters of its own; ARGS='--seed N --runs N --seconds N'
	@exec cargo test --release --locked --quiet --test chaos -- --runs 5 --seconds 20 $(ARGS)

bench: prerequisites ## measure speed and memory, on servers of its own
	cargo build --release --locked
	@MONGO_BENCH=1 RABBIT_BENCH=1 exec $(SERVERS) with bench cargo bench --locked --bench ingest -- $(ARGS)

down: ## stop the servers of `make run`; their data stays
	@$(SERVERS) down

lint: prerequisites ## every static check of .ci/run
	@exec .ci/run static

fmt: ## format the code
	cargo fmt --all

clean-dev: ## stop the servers of `make run` and delete their data
	@$(SERVERS) purge

prerequisites:
	@deploy/dev/prerequisites.sh
