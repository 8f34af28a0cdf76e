#!/usr/bin/env bash
# Builds a real control plane (etcd and kube-apiserver) from its Go modules into
# a folder, as the peer of the benchmarks. Minutes the first time, then cached.
# Usage: build.sh FOLDER
set -euo pipefail
version=1.35.4
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
stamp="$folder/$(sha256sum "$here/build.sh" | cut -c1-16)"
[ -f "$stamp" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
go mod init peers >/dev/null 2>&1
module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
sed -n 's#^\s*\(k8s.io/[a-z-]*\) v0.0.0$#\1#p' "$module" | sort -u | while read -r staging; do
  go mod edit -replace "$staging=$staging@v0.${version#1.}"
done
go get -tool "k8s.io/kubernetes/cmd/kube-apiserver@v$version" go.etcd.io/etcd/server/v3
go mod tidy >/dev/null 2>&1
base=k8s.io/component-base/version
flags="-s -w -X $base.gitVersion=v$version -X $base.gitMajor=1 -X $base.gitMinor=35"
go build -ldflags "$flags" -o "$folder/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
go build -ldflags "-s -w" -o "$folder/etcd" go.etcd.io/etcd/server/v3
touch "$stamp"
