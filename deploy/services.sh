#!/usr/bin/env bash
# PostgreSQL and RabbitMQ for one machine: installs what is missing (Debian, as root), starts what is down, and makes the user,
# database and virtual host that zhika uses by default. Safe to run again at any time.
#
# Leaves alone what it does not need to touch: when both servers answer for the user, it ends at once.
set -euo pipefail

USER_NAME=zhika
PASSWORD=zhika            # loopback only, for development and tests; a real installation gives its own URLs
PORT_POSTGRES=5432
PORT_RABBITMQ=5672

say() { echo "services: $*" >&2; }
open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_port() {
    for _ in $(seq 1 120); do open_port "$1" && return 0; sleep 0.5; done
    say "nothing answers on port $1 after 60 s"
    return 1
}
root() { [ "$(id -u)" = 0 ]; }

install_missing() {
    local missing=()
    command -v pg_ctlcluster >/dev/null || missing+=(postgresql)
    command -v rabbitmqctl >/dev/null || [ -x /usr/sbin/rabbitmqctl ] || missing+=(rabbitmq-server)
    [ ${#missing[@]} = 0 ] && return 0
    root || { say "missing: ${missing[*]}; install them as root, or run this as root"; return 1; }
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Packages try to start their servers; in a container that can fail and would fail the installation with it.
    local policy=/usr/sbin/policy-rc.d made=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; made=1; }
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}") >/dev/null
    [ -z "$made" ] || rm -f $policy
}

start_postgres() {
    open_port $PORT_POSTGRES && return 0
    root || { say "PostgreSQL is down; start it as root"; return 1; }
    local version
    version=$(ls /etc/postgresql | sort -V | tail -1)
    say "starting PostgreSQL $version"
    pg_ctlcluster --skip-systemctl-redirect "$version" main start
    wait_port $PORT_POSTGRES
}

postgres_ready() { PGPASSWORD=$PASSWORD psql -qtAX -h 127.0.0.1 -p $PORT_POSTGRES -U $USER_NAME -d $USER_NAME -c 'select 1' >/dev/null 2>&1; }

make_database() {
    postgres_ready && return 0
    root || { say "PostgreSQL has no user '$USER_NAME'; run this as root once"; return 1; }
    local sql="
      DO \$\$ BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '$USER_NAME') THEN CREATE ROLE $USER_NAME; END IF;
      END \$\$;
      ALTER ROLE $USER_NAME LOGIN CREATEDB PASSWORD '$PASSWORD';
      SELECT 'CREATE DATABASE $USER_NAME OWNER $USER_NAME' WHERE NOT EXISTS (SELECT 1 FROM pg_database WHERE datname = '$USER_NAME') \\gexec"
    (cd / && echo "$sql" | runuser -u postgres -- psql -qtAX -p $PORT_POSTGRES) >/dev/null
    postgres_ready
}

start_rabbitmq() {
    open_port $PORT_RABBITMQ && return 0
    root || { say "RabbitMQ is down; start it as root"; return 1; }
    say "starting RabbitMQ"
    export PATH=$PATH:/usr/sbin
    (cd / && setsid rabbitmq-server -detached) >/dev/null 2>&1 || true
    wait_port $PORT_RABBITMQ
}

rabbitmq_ready() { rabbitmqctl -q authenticate_user $USER_NAME $PASSWORD >/dev/null 2>&1; }

make_vhost() {
    export PATH=$PATH:/usr/sbin
    root || return 0
    rabbitmqctl -q await_startup --timeout 60 >/dev/null
    if ! rabbitmq_ready; then
        rabbitmqctl -q add_user $USER_NAME $PASSWORD >/dev/null 2>&1 || rabbitmqctl -q change_password $USER_NAME $PASSWORD >/dev/null
    fi
    rabbitmqctl -q list_vhosts | grep -qx $USER_NAME || rabbitmqctl -q add_vhost $USER_NAME
    rabbitmqctl -q set_permissions -p $USER_NAME $USER_NAME '.*' '.*' '.*'
    # Tests make and drop virtual hosts of their own.
    rabbitmqctl -q set_user_tags $USER_NAME administrator
}

install_missing
start_postgres
start_rabbitmq
make_database
make_vhost
say "PostgreSQL and RabbitMQ are up"
