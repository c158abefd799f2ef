#!/bin/sh
# Install the programs that check deploy/ and are not on PyPI into .tools/bin; keep existing ones.
# Prometheus and promtool are unpacked from the package of Debian and not installed. The others are
# Go programs: the loader of Compose, the schema of Grafana, kustomize. .tools/crds gets the
# definitions of the resources of the operators, from their sources.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.tools/bin
mkdir -p "$bin"

if [ ! -x "$bin/promtool" ]; then
    cd .tools
    apt-get download prometheus 2>/dev/null ||
        { apt-get --quiet update && apt-get download prometheus; }
    dpkg-deb --extract prometheus_*.deb prometheus
    cp prometheus/usr/bin/prometheus prometheus/usr/bin/promtool "$bin"
    rm -r prometheus prometheus_*.deb
    cd ..
fi
if [ ! -x "$bin/compose-load" ]; then
    GOBIN=$bin go install github.com/compose-spec/compose-go/v2/cmd@v2.16.2
    mv "$bin/cmd" "$bin/compose-load"
fi
if [ ! -x "$bin/dashboard-check" ]; then
    go build -C tests/deploy/dashboard -o "$bin/dashboard-check" .
fi
if [ ! -x "$bin/kustomize" ]; then
    GOBIN=$bin go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
fi
crds=$PWD/.tools/crds
if [ ! -d "$crds" ]; then
    modules="github.com/kedacore/keda/v2@v2.21.0"
    modules="$modules github.com/prometheus-operator/prometheus-operator@v0.85.0"
    go mod download $modules
    sources=$(go mod download -json $modules | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    mkdir -p "$crds.new"
    for name in keda.sh_scaledobjects monitoring.coreos.com_podmonitors; do
        find $sources -name "$name.yaml" ! -path '*-full/*' -exec install -m 644 {} "$crds.new/" \;
    done
    mv "$crds.new" "$crds"
fi
