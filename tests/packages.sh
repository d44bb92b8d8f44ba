#!/bin/sh
# Installs the Debian packages the tests need and this machine lacks. As root only; otherwise says what to install.
# Nothing is started: the tests start their own servers on free loopback ports.
set -eu

# package and a file it brings; the test compiler is called by that path
needed="rustc:/usr/bin/rustc libstd-rust-dev-wasm32:/usr/lib/rustlib/wasm32-unknown-unknown lld:/usr/bin/wasm-ld \
    redis-server:/usr/bin/redis-server openssl:/usr/bin/openssl \
    iproute2:/sbin/ip \
    gcc:/usr/bin/gcc libc6-dev:/usr/include/stdio.h \
    clang:/usr/bin/clang wasi-libc:/usr/include/wasm32-wasi/stdio.h \
    wabt:/usr/bin/wat2wasm \
    libclang-rt-14-dev-wasm32:/usr/lib/llvm-14/lib/clang/14.0.6/lib/wasi/libclang_rt.builtins-wasm32.a"

missing=""
for entry in $needed; do
    [ -e "${entry#*:}" ] || missing="$missing ${entry%%:*}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need these Debian packages; install them first: apt-get install$missing" >&2
    exit 1
fi

echo "installing Debian packages for the tests:$missing" >&2
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
