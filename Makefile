# What is built and installed for tests is kept here, keyed by what it was made from.
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pipegen
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT     := v2.15.0
VULN     := v1.9.0
GITLAB   := 4.73.0
ACT      := v0.2.89

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build tools release builder agent bake server client compose demo test lint vuln e2e bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9 ]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Without the tracing pages of gRPC, which print by templates, the linker drops the methods that nothing calls: a quarter.
build: ## build bin/pipegen
	go build -trimpath -tags grpcnotrace -ldflags '-X main.version=$(VERSION)' -o bin/pipegen ./cmd/pipegen

tools: ## build Kaniko's executor, buildctl and buildkitd into the cache, where pipegen finds them (minutes the first time)
	@go run ./test/toolcache/make executor buildctl buildkitd

release: ## cross-compile the binaries of pipegen's own projects
	go run ./test/release

builder agent: build tools release ## publish the image that jobs and agents build in: make builder REGISTRY=HOST/REPOSITORY
	@test -n '$(REGISTRY)' || { echo 'make $@ needs REGISTRY=HOST/REPOSITORY' >&2; exit 2; }
	bin/pipegen run builder --registry '$(REGISTRY)'

bake: build tools release ## publish the images of agents, server and client: make bake REGISTRY=HOST/REPOSITORY
	@test -n '$(REGISTRY)' || { echo 'make bake needs REGISTRY=HOST/REPOSITORY' >&2; exit 2; }
	bin/pipegen run builder server client --registry '$(REGISTRY)'

server: build tools ## run a controller on this machine, without authentication
	bin/pipegen server --dev

client: build ## submit config.yaml in this directory to $CONTROLLER_URL
	bin/pipegen submit --config config.yaml

compose: build ## submit compose.yaml in this directory to $CONTROLLER_URL, services side by side
	bin/pipegen submit --compose compose.yaml --async

demo: build ## show the main job on a monorepo of its own, down to a multi-arch index
	@go run ./test/toolcache/make executor
	go run ./test/demo

test: ## run the unit tests; needs Go and git
	go test ./...

lint: $(CACHE)/golangci-lint-$(LINT)/golangci-lint ## check formatting and code
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt: $$unformatted" >&2; exit 1; }
	go vet ./...
	go vet -tags e2e ./test/...
	cd test/tools && go vet ./...
	cd test/tools/clients && go vet ./...
	cd test/tools/kubernetes && go vet ./...
	cd test/sigstore && go vet ./...
	cd test/terraform && go vet ./...
	$< run --build-tags e2e ./...
	cd test/tools && $< run ./...
	cd test/tools/clients && $< run ./...
	cd test/tools/kubernetes && $< run ./...
	cd test/sigstore && $< run ./...
	cd test/terraform && $< run ./...

$(CACHE)/golangci-lint-$(LINT)/golangci-lint:
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)

vuln: ## check for known vulnerabilities; needs the internet
	go run golang.org/x/vuln/cmd/govulncheck@$(VULN) ./...

e2e: build tools $(CACHE)/act-$(ACT)/act $(CACHE)/act-actions/built $(CACHE)/gitlab-ci-local-$(GITLAB)/node_modules/.bin/gitlab-ci-local ## run the end-to-end suites; installs with apt and npm what they need
	test/e2e/install
	@go run ./test/toolcache/make versitygw k8stools helm
	cd test/sigstore && go test -count=1 ./...
	cd test/terraform && go test -count=1 ./...
	rm -f $(CACHE)/aws-calls
	GITLAB_CI_LOCAL=$(lastword $^) ACT=$(CACHE)/act-$(ACT)/act ACT_ACTIONS=$(CACHE)/act-actions PIPEGEN_AWS_CALLS=$(CACHE)/aws-calls go test -tags e2e -count=1 -timeout 30m -v ./test/...
	go run ./test/permissions $(CACHE)/aws-calls

$(CACHE)/gitlab-ci-local-$(GITLAB)/node_modules/.bin/gitlab-ci-local:
	npm install --silent --no-audit --no-fund --prefix $(CACHE)/gitlab-ci-local-$(GITLAB) gitlab-ci-local@$(GITLAB)

$(CACHE)/act-$(ACT)/act: test/e2e/act.patch
	rm -rf $(@D) && mkdir -p $(@D)
	cp -r "$$(go mod download -json github.com/nektos/act@$(ACT) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" $(@D)/src && chmod -R u+w $(@D)/src
	cd $(@D)/src && GIT_CEILING_DIRECTORIES=$(@D) git apply $(CURDIR)/$< && go build -o $@ .
	rm -rf $(@D)/src

# What stands in for GitHub's actions for artifacts, which are not in any registry of packages.
$(CACHE)/act-actions/built: $(wildcard test/e2e/actions/*)
	mkdir -p $(@D) && cp $^ $(@D)
	cd $(@D) && npm install --silent --no-audit --no-fund && npm run --silent build && touch $@

bench: build tools ## measure pipegen against git, the bare engines and clients of registries, as tables; as root
	go run ./bench

clean: ## remove what was built in the checkout
	rm -rf bin projects/*/release
