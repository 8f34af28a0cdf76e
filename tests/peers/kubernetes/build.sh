#!/usr/bin/env bash
# Builds programs of a real control plane from their Go modules into a folder, for
# comparison: etcd and kube-apiserver, and what else is named (kube-scheduler,
# kube-controller-manager). Minutes the first time, then cached.
# Usage: build.sh FOLDER [PROGRAM…]
set -euo pipefail
version=1.35.4
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
stamp=$(sha256sum "$here/build.sh" | cut -c1-16)
missing=()
for program in etcd kube-apiserver "$@"; do
  [ -f "$folder/$program-$stamp" ] || missing+=("$program")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "==> building ${missing[*]} $version from Go modules: some minutes the first time" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
go mod init peers >/dev/null 2>&1
module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
sed -n 's#^\s*\(k8s.io/[a-z-]*\) v0.0.0$#\1#p' "$module" | sort -u | while read -r staging; do
  go mod edit -replace "$staging=$staging@v0.${version#1.}"
done
tools=()
for program in kube-apiserver kube-scheduler kube-controller-manager; do
  tools+=("k8s.io/kubernetes/cmd/$program@v$version")
done
go get -tool "${tools[@]}" go.etcd.io/etcd/server/v3
go mod tidy >/dev/null 2>&1
base=k8s.io/component-base/version
flags="-s -w -X $base.gitVersion=v$version -X $base.gitMajor=1 -X $base.gitMinor=35"
for program in "${missing[@]}"; do
  case $program in
    etcd) package=go.etcd.io/etcd/server/v3 ;;
    *) package=k8s.io/kubernetes/cmd/$program ;;
  esac
  go build -ldflags "$flags" -o "$folder/$program" "$package"
  touch "$folder/$program-$stamp"
done
