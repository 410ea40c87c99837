#!/bin/sh
# install_packages.sh FOLDER PROGRAM…: unpack programs that tests run, such as nginx, as Debian or
# Ubuntu builds them, into a folder. They are asked for by name with apt-get, but not installed: so no
# service of theirs starts and listens, nothing of the system changes, and nobody needs to be root.
set -e
folder=$1
shift
missing=no
for program; do
  command -v "$program" >/dev/null || missing=yes
done
if [ $missing = no ]; then
  exit 0 # what is installed serves as well
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "Tests need $*, and there is no apt-get to fetch them with: install them and call make" \
    "again." >&2
  exit 1
fi
told() {
  [ $? = 0 ] || echo "These could not be fetched with apt-get (its reason is above), and tests need" \
    "them: $programs. Install them, and call make again." >&2
}
programs=$*
trap told EXIT
rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
cd "$folder"
apt() {
  apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 -o Debug::NoLocking=1 \
    -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" "$@"
}
apt update
wanted=$(apt -s install --no-install-recommends "$@" | sed -n 's/^Inst \([^ ]*\).*/\1/p' |
  grep -Ev '^(libjs|node|fonts)-' || true) # without what only a browser would show
if [ -z "$wanted" ]; then
  rm -r apt
  exit 0 # they are installed, if not on this PATH
fi
apt download $wanted
for package in *.deb; do
  dpkg-deb -x "$package" .
done
rm -r apt *.deb
