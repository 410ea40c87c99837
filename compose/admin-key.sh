#!/bin/sh
# admin-key.sh FILE: issues an API key with the scope admin and writes it to FILE, if that is not there.
# Until an actor has founded the cluster, no key can be issued.

set -eu
umask 077
until [ -s "$1" ]; do
  id=admin-$(od -An -N4 -tx1 /dev/urandom | tr -d ' ')
  if nebula key issue "$id" --scope admin --name "docker compose" >"$1.new"; then
    mv "$1.new" "$1"
  else
    sleep 1
  fi
done
