#!/usr/bin/env bash
# Builds the end-to-end suite of Kubernetes from its Go module into a folder: e2e.test,
# and ginkgo, which runs it in several processes. Minutes the first time, then cached.
# Usage: build.sh FOLDER
set -euo pipefail
version=1.35.4
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
stamp=$(sha256sum "$here/build.sh" | cut -c1-16)
[ ! -f "$folder/built-$stamp" ] || exit 0
echo "==> building the end-to-end suite of Kubernetes $version from its Go module: some minutes the first time" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
go mod init peers >/dev/null 2>&1
module=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
sed -n 's#^\s*\(k8s.io/[a-z-]*\) v0.0.0$#\1#p' "$module" | sort -u | while read -r staging; do
  go mod edit -replace "$staging=$staging@v0.${version#1.}"
done
# What imports the suite makes its own imports, tests included, part of the module's sums.
cat > tools.go <<'GO'
//go:build tools

package tools

import _ "github.com/onsi/ginkgo/v2/ginkgo"
import _ "k8s.io/kubernetes/test/e2e"
GO
go get "k8s.io/kubernetes/test/e2e@v$version" github.com/onsi/ginkgo/v2/ginkgo >/dev/null 2>&1
go mod tidy >/dev/null 2>&1
base=k8s.io/component-base/version
flags="-s -w -X $base.gitVersion=v$version -X $base.gitMajor=1 -X $base.gitMinor=35"
go test -c -vet=off -ldflags "$flags" -o "$folder/e2e.test" k8s.io/kubernetes/test/e2e
go build -o "$folder/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
touch "$folder/built-$stamp"
