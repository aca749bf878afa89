#!/usr/bin/env bash
# Runs every check that Sallyport has. Used by people and by .ci/run alike.
#
#   test/run.sh                 everything, in the order below
#   test/run.sh unit lint       only these stages
#   SALLYPORT_LONG=1 test/run.sh e2e    the long variants of the end-to-end tests
#
# Stages: install versions format vet build cross tidy unit lint e2e, and fuzz, which runs every fuzz
# target for SALLYPORT_FUZZTIME (60s by default) and is part of the whole only with SALLYPORT_LONG=1.
#
# As root on Debian, "install" adds the packages that the tests need; otherwise it names what is
# missing and fails. No stage skips a test because a server is absent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ALL_STAGES=(install versions format vet build cross tidy unit lint fuzz e2e)
readonly CROSS_TARGETS=(windows/amd64 windows/arm64 darwin/amd64 darwin/arm64 freebsd/amd64 linux/arm64)
readonly GO_NEEDED=1.26

# What the tests run, and the Debian package that brings it. sbin directories are searched too.
readonly NEEDED=(
	git:git
	gcc:gcc
	curl:curl
	openssl:openssl
	ssh:openssh-client
	ssh-keygen:openssh-client
	sshd:openssh-server
	ip:iproute2
	squid:squid-openssl
	/usr/lib/squid/security_file_certgen:squid-openssl
	/usr/lib/squid/basic_ncsa_auth:squid-openssl
	/usr/lib/squid/digest_file_auth:squid-openssl
	/usr/lib/squid/negotiate_kerberos_auth:squid-openssl
	krb5kdc:krb5-kdc
	kadmin.local:krb5-admin-server
	kinit:krb5-user
	winbindd:winbind
	ntlm_auth:winbind
	smbpasswd:samba-common-bin
	/usr/libexec/samba/samba-dcerpcd:samba-common-bin
	tinyproxy:tinyproxy
	apache2:apache2
	nghttpx:nghttp2-proxy
	mitmdump:mitmproxy
	danted:dante-server
	microsocks:microsocks
	cntlm:cntlm
	htpasswd:apache2-utils
	nginx:nginx
	haproxy:haproxy
	redis-server:redis-server
	redis-cli:redis-tools
)

# PATH of a plain user lacks the directories where Debian puts servers.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

temporary=() # files to remove at the end
stage=""     # the stage that runs now

# at_exit cleans up and, after a failure, names the stage in go test's words.
at_exit() {
	local code=$?
	((${#temporary[@]} == 0)) || rm -f "${temporary[@]}"
	((code == 0)) || printf '\nFAIL\ttest/run.sh\tstage %s\n' "${stage:-none}" >&2
	exit "$code"
}

die() {
	printf 'test/run.sh: %s\n' "$*" >&2
	exit 1
}

# missing_packages prints the packages whose programs are not there, one a line.
missing_packages() {
	local entry
	for entry in "${NEEDED[@]}"; do
		command -v "${entry%%:*}" >/dev/null || printf '%s\n' "${entry##*:}"
	done | sort -u
}

stage_install() {
	local missing policy=/usr/sbin/policy-rc.d log
	mapfile -t missing < <(missing_packages)
	if ((${#missing[@]} == 0)); then
		echo "all programs that the tests run are installed"
		return
	fi
	((EUID == 0)) || die "missing Debian packages: ${missing[*]} (run once as root: apt-get install ${missing[*]})"
	command -v apt-get >/dev/null || die "no apt-get here; install what these Debian packages bring: ${missing[*]}"

	# The packages' own services stay off: the tests start their servers themselves, on free ports.
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		temporary+=("$policy")
	fi
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	temporary+=("$log")
	echo "installing ${missing[*]}"
	{
		apt-get -q -o Acquire::Retries=3 update &&
			apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
	} >"$log" 2>&1 </dev/null || die "apt-get failed:"$'\n'"$(tail -n 40 "$log")"

	mapfile -t missing < <(missing_packages)
	((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]}"
}

stage_versions() {
	local have
	have=$(go env GOVERSION)
	printf '%s\n%s\n' "go$GO_NEEDED" "$have" | sort -CV || die "Go $GO_NEEDED or newer is needed; this is $have"
	go version
	squid --version | head -n 1
	nginx -v 2>&1
	haproxy -v | head -n 1
	ssh -V 2>&1
	redis-server --version
	curl --version | head -n 1
	printf '%s cores, %s\n' "$(getconf _NPROCESSORS_ONLN)" "$(uname -srm)"
}

stage_format() {
	local unformatted
	unformatted=$(gofmt -l .)
	[[ -z $unformatted ]] || die "not formatted (run gofmt -w on them):"$'\n'"$unformatted"
}

stage_vet() { go vet ./...; }

stage_build() { go build ./...; }

# The product must build for every target; its tests must at least compile for the first of each
# system, which vet proves without running them.
stage_cross() {
	local target
	for target in "${CROSS_TARGETS[@]}"; do
		echo "$target"
		GOOS=${target%/*} GOARCH=${target#*/} CGO_ENABLED=0 go build ./cmd/... ./proxy/... ./tls/... ./tunnel/...
	done
	for target in windows/amd64 darwin/arm64; do
		echo "$target vet"
		GOOS=${target%/*} GOARCH=${target#*/} CGO_ENABLED=0 go vet ./cmd/... ./proxy/... ./tls/... ./tunnel/...
	done
}

stage_tidy() { go mod tidy -diff; }

stage_unit() {
	local packages
	mapfile -t packages < <(go list ./... | grep -v '/test/e2e$')
	go test -race -timeout 10m "${packages[@]}"
	# The race detector needs other system calls than the product makes: both are tested.
	go test -timeout 5m ./tunnel/... ./proxy
}

# The tools live in a module of their own, so that the product's go.mod stays short.
stage_lint() { go tool -modfile=test/tools/go.mod golangci-lint run --allow-parallel-runners ./...; }

stage_fuzz() {
	local dir name
	while IFS=: read -r dir name; do
		echo "$dir $name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${SALLYPORT_FUZZTIME:-60s}" "$dir"
	done < <(fuzz_targets)
}

# fuzz_targets prints DIRECTORY:NAME of every fuzz target.
fuzz_targets() {
	local file name
	grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
		sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$file" | while read -r name; do
			printf '%s:%s\n' "$(dirname "$file")" "$name"
		done
	done
}

stage_e2e() {
	local timeout=20m
	[[ -z ${SALLYPORT_LONG:-} ]] || timeout=90m
	# In its directory: there go test shows the table of proxies, which is printed at the end.
	(cd test/e2e && go test -race -count=1 -timeout "$timeout")
	# Of what is timed, some is held to its bound only without the race detector.
	go test -count=1 -timeout "$timeout" -run '^TestSlowConsumerEcho$' ./test/e2e
}

run_stage() {
	local name=$1 start=$SECONDS
	printf '\n=== %s\n' "$name"
	# Not in a condition: bash would switch -e off inside the function.
	"stage_$name"
	printf -- '--- %s: %ds\n' "$name" "$((SECONDS - start))"
}

main() {
	local stages=("$@") name
	trap at_exit EXIT
	if ((${#stages[@]} == 0)); then
		for name in "${ALL_STAGES[@]}"; do
			[[ $name == fuzz && -z ${SALLYPORT_LONG:-} ]] || stages+=("$name")
		done
	fi
	for name in "${stages[@]}"; do
		declare -F "stage_$name" >/dev/null || die "no stage $name; there are: ${ALL_STAGES[*]}"
	done
	command -v go >/dev/null || die "no go in PATH; install Go $GO_NEEDED or newer"
	for stage in "${stages[@]}"; do
		run_stage "$stage"
	done
	printf '\nok\ttest/run.sh\t%ds\n' "$SECONDS"
}

main "$@"
