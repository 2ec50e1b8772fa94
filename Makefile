# The project's tasks. Each works on a machine that has only the toolchains: Rust (rustup), Node.js 20, Python 3.11, Go 1.26,
# JDK 17 and Maven.

# Tests wait for servers, and for time to pass, as much as they work: four more at once than there are cores.
at_once = $$((4 + $$(getconf _NPROCESSORS_ONLN)))

.PHONY: help run test test-cluster lint crds chart docs bench bench-cluster soak fuzz testbed keycloak kube cluster image ci

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run:  ## a governed MCP server on this machine, with a small demo server behind the gate
	cargo run -- quickstart

test:  ## every test that needs no node; installs the clients and servers that it talks to on first use
	hack/testbed/install >/dev/null
	hack/testbed/keycloak/install >/dev/null
	hack/testbed/kube/install >/dev/null
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$(at_once)} cargo test

test-cluster:  ## installs the image with Helm on a real cluster of one node and drives it with real clients (needs root)
	hack/cluster/test release::

lint:  ## formatting, clippy, and what may be linked
	cargo fmt --check
	cargo fmt --check --manifest-path bench/Cargo.toml
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --all-targets --quiet --manifest-path bench/Cargo.toml -- -D warnings
	hack/deny

crds:  ## writes crds/*.yaml from the API types, and their copy in the chart
	cargo run --quiet -- crd --dir crds
	hack/chart-docs

chart:  ## writes the generated files of charts/portcullis, lints it, and looks at what it renders
	hack/chart-docs
	hack/chart-test

docs:  ## writes the generated pages of docs/ from the code
	BLESS=1 cargo test --test it -- docs:: chart::rights::the_page

bench:  ## what a governed call costs over a bare forwarder (ten minutes at most, release builds)
	bench/run

bench-cluster:  ## controller and proxies at 10,000 servers and 10,000 policies, over a real API server
	bench/run --cluster

soak:  ## every long run: properties in many more cases, fifty orders, controllers killed at each request, 1,000 clients, 10,000 calls, an hour of load on a gateway
	PROPTEST_CASES=2048 cargo test --lib
	PORTCULLIS_ORDERS=50 cargo test --test it admission::orders
	PORTCULLIS_KILL_ROUNDS=200 cargo test --test it controller::random
	PORTCULLIS_CRASH_MATRIX=all cargo test --test it -- controller::registrations::crash controller::registrations::told_crash
	PORTCULLIS_REGISTRATIONS=1000 cargo test --test it controller::registrations::many -- --nocapture
	PORTCULLIS_UPSTREAM_CALLS=10000 cargo test --test it upstream_oauth::numbers -- --nocapture
	bench/run --soak 3600

fuzz:  ## five minutes of fuzzing for each target
	hack/fuzz 300

testbed:  ## installs the MCP clients and servers of the tests, and prints where
	@hack/testbed/install

keycloak:  ## installs Keycloak for the tests (once), and prints where
	@hack/testbed/keycloak/install

kube:  ## builds kube-apiserver, etcd, kubectl and helm for the tests (minutes, once), and prints where
	@hack/testbed/kube/install

cluster:  ## a Kubernetes cluster of one node on this machine, until Ctrl-C (Linux, root)
	@hack/cluster/run

image:  ## the container image as an archive, without a registry (Debian)
	@hack/image

ci:  ## what runs before every merge
	.ci/run
