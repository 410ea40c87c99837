#!/bin/sh
# What NATS servers and their clients need to know each other: certificates, made by openssl, and users, made by
# `nebula auth`. Each folder below this one is a volume, which compose.yaml mounts where its content is used.
#
#   credentials.sh              what the services need; what is there stays, certificates until their last 30 days
#   credentials.sh renew        the same, with new certificates
#   credentials.sh ROLE NAME    a further user of a role (node, operator, viewer …), as a tar archive on stdout
#   credentials.sh revoke NAME  lets a user in no more
#
# Two authorities sign: one for the servers, one for their clients. So no client can pass for a server.

set -eu
umask 077
users=keys/nats/users

fail() {
  echo "$1" >&2
  exit 2
}

# place FILE TARGET: copy a file; a reader sees the old one or the new one.
place() {
  cp "$1" "$2.new"
  mv "$2.new" "$2"
}

# key FILE: a private key.
key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# authority NAME: keys/NAME.key and .crt, which sign certificates.
authority() {
  [ -s "keys/$1.crt" ] && return
  key "keys/$1.key"
  openssl req -x509 -config /dev/stdin -key "keys/$1.key" -days 3650 -out "keys/$1.crt.new" <<END
[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
[subject]
CN = Nebula: authority for NATS $1
[extensions]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
  mv "keys/$1.crt.new" "keys/$1.crt"
}

# certificate AUTHORITY FOLDER NAME EXTENSION…: FOLDER/tls.pem, with its key, valid for a year.
certificate() {
  authority=$1 folder=$2 name=$3
  shift 3
  wanted=$(printf '%s\n' "$@")
  if [ "$renew" = no ] && [ "$(cat "$folder/tls.names" 2>/dev/null)" = "$wanted" ] &&
    openssl x509 -in "$folder/tls.pem" -noout -checkend 2592000 >/dev/null; then
    return
  fi
  key "$folder/key.new"
  openssl req -x509 -config /dev/stdin -CA "keys/$authority.crt" -CAkey "keys/$authority.key" \
    -key "$folder/key.new" -days 365 -out "$folder/tls.new" <<END
[req]
prompt = no
distinguished_name = subject
x509_extensions = extensions
[subject]
CN = $name
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
$wanted
END
  cat "$folder/key.new" >>"$folder/tls.new"
  rm "$folder/key.new"
  mv "$folder/tls.new" "$folder/tls.pem"
  printf '%s\n' "$wanted" >"$folder/tls.names"
}

# client FOLDER NAME: FOLDER/tls.pem, and ca.crt with the authority of the servers.
client() {
  certificate clients "$1" "$2" "extendedKeyUsage = clientAuth"
  place keys/servers.crt "$1/ca.crt"
}

# servers FILE URLS: a context without credentials, for new users.
servers() {
  printf '{"url": "%s", "ca": "ca.crt", "cert": "tls.pem", "key": "tls.pem"}\n' "$2" >"$1"
}

# user ROLE NAME FOLDER FILE [CONTEXT]: a user's credentials, in FOLDER/FILE.json and FOLDER/NAME.creds.
user() {
  [ -s "$users/$2.json" ] || nebula auth "$1" "$2" --nats "file:${5:-keys/servers.json}" >/dev/null
  grep -q "\"Nebula: $1 $2\"" "$users/$2.json" || fail "$2 is a user of another role"
  place "$users/$2.creds" "$3/$2.creds"
  place "$users/$2.json" "$3/$4.json"
}

# alternatives NAME…: the names and addresses as a certificate has them.
alternatives() {
  list=
  for each; do
    case $each in
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
    esac
    list="$list${list:+, }$kind:$each"
  done
  echo "$list"
}

# node NAME FOLDER [CONTEXT]: the credentials of a node, and its key for those of its engines.
node() {
  client "$2" "$1"
  user node "$1" "$2" context "${3:-}"
  [ -s "$users/$1.engines.json" ] || nebula auth engines "$1" --nats "file:${3:-keys/servers.json}" >/dev/null
  place "$users/$1.engines.nk" "$2/$1.engines.nk"
  place "$users/$1.engines.json" "$2/engines.json"
}

# tell: the servers that run, and those that will, of changed users.
tell() {
  nebula auth push --nats file:keys/servers.json >/dev/null
  place keys/nats/nats-auth.conf nats/nats-auth.conf
}

services() {
  # Names come from .env, and are separated by spaces.
  # shellcheck disable=SC2086
  certificate servers nats nats "extendedKeyUsage = serverAuth, clientAuth" \
    "subjectAltName = $(alternatives nats-1 nats-2 nats-3 localhost 127.0.0.1 ${NATS_NAMES:-})"
  place keys/servers.crt nats/servers.crt
  place keys/clients.crt nats/clients.crt
  for role in gateway router provision operator; do
    client "$role" "$role"
    user "$role" "$role" "$role" context
  done
  node "$NODE_CPU" node-cpu
  node "$NODE_GPU" node-gpu
  place keys/nats/nats-auth.conf nats/nats-auth.conf
}

# further ROLE NAME: a user elsewhere, as an archive.
further() {
  outside=${NATS_NAMES:-}
  outside=${outside%% *}
  [ -n "$outside" ] || fail "set NATS_NAMES in .env: the name or address of this machine as others know it"
  folder=keys/further/$2
  [ -d "$folder" ] || [ ! -s "$users/$2.json" ] || fail "$2 is a user of a service here"
  case $outside in *:*) outside="[$outside]" ;; esac
  urls=
  for port in $NATS_PORTS; do
    urls="$urls${urls:+,}tls://$outside:$port"
  done
  servers keys/outside.json "$urls"
  mkdir -p "$folder"
  if [ "$1" = node ]; then
    node "$2" "$folder" keys/outside.json
    tell
  else
    client "$folder" "$2"
    user "$1" "$2" "$folder" context keys/outside.json
  fi
  tar -C "$folder" --exclude tls.names -cf - .
}

[ $# -ne 1 ] || [ "$1" = renew ] || fail "usage: credentials.sh [renew | revoke NAME | ROLE NAME]"
renew=no
mkdir -p keys nats gateway router provision operator node-cpu node-gpu
authority servers
authority clients
client keys credentials
servers keys/servers.json "$NATS_URLS"
nebula auth init --keep --keys keys/nats >/dev/null
export NEBULA_AUTH_FOLDER=keys/nats

case ${1:-} in
"") services ;;
renew)
  renew=yes
  services
  ;;
revoke)
  nebula auth revoke "$2" --nats file:keys/servers.json
  place keys/nats/nats-auth.conf nats/nats-auth.conf
  rm -rf "$users/$2.json" "$users/$2.creds" "$users/$2.engines.json" "$users/$2.engines.nk" "keys/further/$2"
  ;;
*) further "$1" "$2" ;;
esac
