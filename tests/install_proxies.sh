#!/bin/sh
# Unpack nginx and haproxy, as Debian or Ubuntu builds them, into the folder $1, for the tests that
# stand them before a gateway. They are asked for by name with apt-get, but not installed: so no
# service of theirs starts and listens, nothing of the system changes, and nobody needs to be root.
set -e
if command -v nginx >/dev/null && command -v haproxy >/dev/null; then
  exit 0 # what is installed serves as well
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "The tests behind proxies need nginx and haproxy, and there is no apt-get to fetch them" \
    "with: install both (nginx, haproxy) and call make again." >&2
  exit 1
fi
told() {
  [ $? = 0 ] || echo "nginx and haproxy could not be fetched with apt-get (its reason is above): the" \
    "tests behind proxies need them. Install both, and call make again." >&2
}
trap told EXIT
rm -rf "$1"
mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
cd "$1"
apt() {
  apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 -o Debug::NoLocking=1 \
    -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" "$@"
}
apt update
wanted=$(apt -s install --no-install-recommends nginx haproxy | sed -n 's/^Inst \([^ ]*\).*/\1/p')
if [ -z "$wanted" ]; then
  rm -r apt
  exit 0 # they are installed, if not on this PATH
fi
apt download $wanted
for package in *.deb; do
  dpkg-deb -x "$package" .
done
rm -r apt *.deb
