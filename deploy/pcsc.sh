#!/usr/bin/env bash
# What card readers, HSMs and card printers need on one machine: the PC/SC service with virtual readers, a software HSM, tools that
# look at cards, what pyscard is built with (it is published as source only), an IPP printer to test against and the message bus it
# asks for, and what measures a printed sheet. Installs what is missing (Debian, as root), starts nothing. Safe to run again at any time.
#
# The base installation needs none of it; tests do, and stations with real readers.
set -euo pipefail

PACKAGES=(pcscd vsmartcard-vpcd libpcsclite-dev swig softhsm2 opensc pcsc-tools gcc libc6-dev python3-dev
    cups-ipp-utils dbus-daemon poppler-utils)

say() { echo "pcsc: $*" >&2; }
root() { [ "$(id -u)" = 0 ]; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

if ! command -v dpkg-query >/dev/null; then
    say "this is not Debian: install ${PACKAGES[*]}, or what they are called here"
    exit 1
fi
missing=()
for package in "${PACKAGES[@]}"; do
    installed "$package" || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0
root || { say "missing: ${missing[*]}; install them as root, or run this as root"; exit 1; }
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The package of pcscd tries to start it; in a container that can fail and would fail the installation with it.
policy=/usr/sbin/policy-rc.d made=
[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; made=1; }
(apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}") >/dev/null
[ -z "$made" ] || rm -f $policy
