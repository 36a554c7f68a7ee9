# What is built and installed for tests is kept here, keyed by what it was made from.
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pipegen
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT     := v2.15.0
VULN     := v1.9.0
GITLAB   := 4.73.0

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build tools release builder demo test lint vuln e2e bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/pipegen
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/pipegen ./cmd/pipegen

tools: ## build Kaniko's executor into the cache, where pipegen finds it (minutes the first time)
	@go run ./test/toolcache/make executor

release: ## cross-compile the binaries of projects/shell and projects/builder
	go run ./test/release

builder: build tools release ## publish pipegen's builder image: make builder REGISTRY=HOST/REPOSITORY
	@test -n '$(REGISTRY)' || { echo 'make builder needs REGISTRY=HOST/REPOSITORY' >&2; exit 2; }
	bin/pipegen run builder --registry '$(REGISTRY)'

demo: build tools ## show the main job on a monorepo of its own, down to a multi-arch index
	go run ./test/demo

test: ## run the unit tests; needs Go and git
	go test ./...

lint: $(CACHE)/golangci-lint-$(LINT)/golangci-lint ## check formatting and code
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt: $$unformatted" >&2; exit 1; }
	go vet ./...
	go vet -tags e2e ./test/...
	cd test/tools && go vet ./...
	$< run --build-tags e2e ./...
	cd test/tools && $< run ./...

$(CACHE)/golangci-lint-$(LINT)/golangci-lint:
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)

vuln: ## check for known vulnerabilities; needs the internet
	go run golang.org/x/vuln/cmd/govulncheck@$(VULN) ./...

e2e: build tools $(CACHE)/gitlab-ci-local-$(GITLAB)/node_modules/.bin/gitlab-ci-local ## run the end-to-end suites; installs with apt and npm what they need
	test/e2e/install
	GITLAB_CI_LOCAL=$(lastword $^) go test -tags e2e -count=1 -timeout 30m -v ./test/...

$(CACHE)/gitlab-ci-local-$(GITLAB)/node_modules/.bin/gitlab-ci-local:
	npm install --silent --no-audit --no-fund --prefix $(CACHE)/gitlab-ci-local-$(GITLAB) gitlab-ci-local@$(GITLAB)

bench: build ## measure pipegen against git, as a table
	go run ./bench

clean: ## remove what was built in the checkout
	rm -rf bin projects/*/release
