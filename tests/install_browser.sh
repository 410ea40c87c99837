#!/bin/sh
# Get a Chromium for the tests of the web console into the folder $1: none if one is installed, or
# the headless one that Playwright has, or what Debian builds, asked for by name with apt-get and
# unpacked, but not installed: nothing of the system changes, and nobody needs to be root.
set -e
if command -v chromium >/dev/null && [ ! -e /snap/bin/chromium ]; then
  exit 0
fi
rm -rf "$1"
mkdir -p "$1"
if PLAYWRIGHT_BROWSERS_PATH="$1" .venv/bin/python -m playwright install chromium-headless-shell \
  >"$1/playwright.log" 2>&1 && found=$(find "$1" -name '*headless*shell' -type f | head -n 1) &&
  [ -n "$found" ] && "$found" --version >/dev/null 2>&1; then
  ln -s "$found" "$1/chromium"
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "The tests of the web console need Chromium: Playwright could not fetch it ($1/playwright.log" \
    "says why), and there is no apt-get. Install it (chromium) and call make again." >&2
  exit 1
fi
told() {
  [ $? = 0 ] || echo "Chromium could be fetched neither by Playwright nor with apt-get (the reason is" \
    "above): the tests of the web console need it. Install it, and call make again." >&2
}
trap told EXIT
mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
cd "$1"
apt() {
  apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 -o Debug::NoLocking=1 \
    -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" "$@"
}
apt update
wanted=$(apt -s install --no-install-recommends chromium fonts-dejavu-core | sed -n 's/^Inst \([^ ]*\).*/\1/p')
apt download $wanted
for package in *.deb; do
  dpkg-deb -x "$package" .
done
rm -r apt *.deb
# Some libraries lie in folders of their own, where only an installed system would look for them.
libraries=$(find "$PWD" -name 'lib*.so*' -exec dirname {} + | sort -u | paste -s -d :)
cat >chromium <<END
#!/bin/sh
export LD_LIBRARY_PATH="$libraries"
exec "$PWD/usr/lib/chromium/chromium" "\$@"
END
chmod +x chromium
./chromium --version >/dev/null
