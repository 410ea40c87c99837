#!/bin/sh
# api-key.sh FILE [SCOPE]: issues an API key, with the scope admin or another, and writes it to FILE, if that is
# not there. Until an actor has founded the cluster, no key can be issued.

set -eu
scope=${2:-admin}
umask 077
until [ -s "$1" ]; do
  id=$scope-$(od -An -N4 -tx1 /dev/urandom | tr -d ' ')
  if nebula key issue "$id" --scope "$scope" --name "docker compose" >"$1.new"; then
    # Prometheus reads its key as another user, in a volume that has nothing else and nobody else mounts.
    [ "$scope" != view ] || chmod 644 "$1.new"
    mv "$1.new" "$1"
  else
    sleep 1
  fi
done
