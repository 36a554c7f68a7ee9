package main

import "fmt"

const (
	few      = 10     // files changed on the branch few
	wideDirs = 200    // of 1,000 files each, in one project
	deepMain = 50_000 // commits on main since the merge-base
	commits  = 500
	teams    = 100
)

// many is how many files the branch many changes: one in every fifth project.
func many(projects int) int { return projects / 5 }

// monorepo has so many projects of six files each and the branches base (500
// commits), few and many.
func monorepo(projects int) history {
	return func(s *stream) {
		base := s.commit("refs/heads/base", 0)
		s.file("pipegen.yaml", settings)
		for i := range teams {
			s.file(fmt.Sprintf("shared/team-%02d/lib.txt", i), fmt.Sprintf("what team %d shares\n", i))
		}
		for i := range projects {
			dir, name := projectDir(i), projectName(i)
			s.file(dir+"/build-config.yaml", fmt.Sprintf(buildConfig, name, i%teams))
			s.file(dir+"/Dockerfile", fmt.Sprintf(dockerfile, name, onWhat(i)))
			s.file(dir+"/README.md", fmt.Sprintf("# %s\n\nA service.\n", name))
			for _, file := range []string{"main.txt", "data.txt", "more.txt"} {
				s.file(dir+"/"+file, fmt.Sprintf("%s of %s\n", file, name))
			}
		}
		for i := range commits - 1 {
			base = s.commit("refs/heads/base", base)
			s.file(projectDir(i*7%projects)+"/data.txt", fmt.Sprintf("change %d\n", i))
		}
		s.changed("few", base, projects, few)
		s.changed("many", base, projects, many(projects))
		s.ref("refs/remotes/origin/main", base)
	}
}

// changed makes a branch that changes a file in each of n projects, spread
// evenly.
func (s *stream) changed(branch string, from, projects, n int) {
	s.commit("refs/heads/"+branch, from)
	for i := range n {
		s.file(projectDir(i*(projects/n)+1)+"/main.txt", fmt.Sprintf("changed %d\n", i))
	}
}

func projectName(i int) string { return fmt.Sprintf("app-%05d", i) }
func projectDir(i int) string  { return "projects/" + projectName(i) }

// onWhat is the image that a project is built on: two thirds stand on the
// image of another project, at most four levels deep.
func onWhat(i int) string {
	if i < 10 || i%3 == 0 {
		return "alpine:3.21"
	}
	return "${PIPEGEN_REGISTRY}:" + projectName(i/10) + "-latest"
}

const settings = `registry: registry.example.com/images
ignore: ["**/README.md", "docs/**"]
rebuild_all: ["build/**"]
defaults:
  timeout: 30m
`

// buildConfig has 16 lines.
const buildConfig = `# The service %[1]s.
dockerfile_path: Dockerfile
context_path: .
build_args:
  - GO_VERSION=1.24.3
  - SERVICE=%[1]s
platforms:
  - linux/amd64
  - linux/arm64
additional_tags:
  - latest
  - v1.42.0
labels:
  org.opencontainers.image.title: %[1]s
  org.opencontainers.image.vendor: Example
watch: ["shared/team-%02[2]d/**"]
`

// dockerfile has 18 lines in two stages.
const dockerfile = `# syntax=docker/dockerfile:1
ARG GO_VERSION=1.24
ARG PIPEGEN_REGISTRY
FROM golang:${GO_VERSION}-alpine AS build
WORKDIR /src
RUN apk add --no-cache git make
COPY main.txt data.txt more.txt ./
RUN make build \
      SERVICE=%[1]s \
      VERSION=v1.42.0

FROM %[2]s
LABEL org.opencontainers.image.description="the service %[1]s"
RUN adduser -D -u 10001 %[1]s
COPY --from=build /src/bin/%[1]s /usr/bin/%[1]s
EXPOSE 8080
USER %[1]s
ENTRYPOINT ["/usr/bin/%[1]s"]
`

// wide has one project of 200,000 files, and the branches base and few.
func wide(s *stream) {
	base := s.commit("refs/heads/base", 0)
	name := func(i int) string { return fmt.Sprintf("projects/wide/data/%03d/%04d.txt", i/1000, i%1000) }
	s.file("projects/wide/build-config.yaml", "additional_tags: [latest]\n")
	s.file("projects/wide/Dockerfile", "FROM alpine:3.21\nCOPY data /data\n")
	for i := range wideDirs * 1000 {
		s.file(name(i), fmt.Sprintf("file %d\n", i))
	}
	s.commit("refs/heads/few", base)
	for i := range few {
		s.file(name(i*wideDirs*100), fmt.Sprintf("changed %d\n", i))
	}
	s.ref("refs/remotes/origin/main", base)
}

// deep has a branch of three commits, and on main 50,000 commits that it lacks.
func deep(s *stream) {
	base := s.commit("refs/heads/topic", 0)
	for i := range 20 {
		s.file(projectDir(i)+"/build-config.yaml", "additional_tags: [latest]\n")
		s.file(projectDir(i)+"/Dockerfile", "FROM alpine:3.21\n")
	}
	main := base
	for i := range deepMain {
		main = s.commit("refs/remotes/origin/main", main)
		s.file(projectDir(i%10)+"/main.txt", fmt.Sprintf("commit %d\n", i))
	}
	topic := base
	for i := range 3 {
		topic = s.commit("refs/heads/topic", topic)
		s.file(projectDir(10+i)+"/main.txt", fmt.Sprintf("commit %d\n", i))
	}
}
