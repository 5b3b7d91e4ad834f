#!/usr/bin/env bash
# The image's health check: whether the service at BACKSTOP_LISTEN is ready. bash opens the connection
# itself, so that the image needs no client.
set -euo pipefail
host=${BACKSTOP_LISTEN%:*} port=${BACKSTOP_LISTEN##*:}
case $host in
  0.0.0.0 | '[::]') host=127.0.0.1 ;;
  \[*\]) host=${host#[} host=${host%]} ;;
esac
exec 3<>"/dev/tcp/$host/$port"
printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
grep -q '^HTTP/1.. 200' <&3
