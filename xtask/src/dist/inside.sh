#!/bin/bash
# What an administrator does with the two packages, on a machine where systemd runs. xtask/src/dist/debian.rs boots a
# fresh Debian with this as its one task; /check has the packages, and takes what is said here.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

say() { echo "== $*"; }

fail() {
    echo "FAILED: $*"
    journalctl --no-pager -n 80 -u cortex -u neuron -u cortex.socket
    exit 1
}
trap 'fail "line $LINENO"' ERR

install() { dpkg --force-confold -i "$@" || fail "dpkg -i $*"; }

# Every file that stays, but for what the system writes at any time.
files() {
    find / -xdev \( -path /check -o -path /var/lib/dpkg -o -path /var/log -o -path /tmp -o -path /var/tmp \
        -o -path /var/lib/systemd \) -prune -o -print | sort
}

ask='{"model": "smollm2", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello!"}]}'
chat() {
    curl -sS --fail-with-body -m 120 http://127.0.0.1:31313/v1/chat/completions -H 'content-type: application/json' -d "$ask"
}
pid() { systemctl show -P MainPID "$1"; }

files >/check/before

say "a first installation"
install /check/cortex.deb /check/neuron*.deb
for unit in cortex neuron; do
    systemctl is-enabled "$unit" || fail "$unit is not enabled"
    systemd-analyze verify --man=no "/usr/lib/systemd/system/$unit.service"
    systemd-analyze security "$unit.service" --no-pager --threshold=25 | tail -1
done
cp -a /check/models/. /var/lib/neuron/hub/
chown -R neuron: /var/lib/neuron
echo HF_HUB_OFFLINE=1 >>/etc/neuron/environment

say "started"
systemctl start neuron cortex
for _ in $(seq 60); do chat >/check/answer 2>&1 && break || sleep 1; done
grep -q '"choices"' /check/answer || fail "no chat: $(cat /check/answer)"
cat /check/answer
echo
for name in cortex neuron; do
    [ "$(ps -o user= -p "$(pid $name)")" = $name ] || fail "$name does not run as $name"
    journalctl -q --no-pager -u $name | grep -q . || fail "$name's log is not in the journal"
done

say "reloaded: the same process, and the file is read again"
before=$(pid cortex)
sed -i 's/^# *route_header.*//; s/^\[gateway\]$/[gateway]\nroute_header = true/' /etc/cortex/cortex.toml
systemctl reload cortex
for _ in $(seq 50); do curl -sS -D - -o /dev/null -m 120 http://127.0.0.1:31313/v1/chat/completions -d "$ask" -H 'content-type: application/json' | grep -qi x-cortex-route && break || sleep 0.2; done
curl -sS -D - -o /dev/null -m 120 http://127.0.0.1:31313/v1/chat/completions -d "$ask" -H 'content-type: application/json' | grep -i x-cortex-route
[ "$(pid cortex)" = "$before" ] || fail "a reload made another process"

say "upgraded under requests: edited files stay, the daemons restart, nobody is refused"
echo '# mine' >>/etc/cortex/cortex.toml
cortex_was=$(pid cortex) neuron_was=$(pid neuron)
(
    trap - ERR
    set +e
    while [ ! -e /check/enough ]; do
        echo >>/check/asked
        chat >>/check/answers 2>&1 || echo "$?" >>/check/refused
    done
) &
asking=$!
sleep 2
install /check/cortex.deb
sleep 2
install /check/neuron*.deb
sleep 5
touch /check/enough
wait $asking
grep -qx '# mine' /etc/cortex/cortex.toml || fail "the upgrade changed /etc/cortex/cortex.toml"
[ "$(pid cortex)" != "$cortex_was" ] && [ "$(pid neuron)" != "$neuron_was" ] || fail "not restarted"
[ ! -e /check/refused ] || fail "$(wc -l </check/refused) of $(wc -l </check/asked) were refused: $(tail -c 2000 /check/answers)"
echo "$(wc -l </check/asked) requests, none refused"

say "removed and installed again: as it was"
systemctl disable neuron
dpkg --remove cortex "$(dpkg-query -W -f '${Package}\n' 'neuron*' | head -1)"
systemctl is-active cortex cortex.socket neuron && fail "removed and still running"
[ -e /etc/cortex/cortex.toml ] || fail "a removal took the configuration"
install /check/cortex.deb /check/neuron*.deb
systemctl is-enabled cortex || fail "cortex was enabled, and is not"
systemctl is-enabled neuron && fail "neuron was disabled, and is not"
systemctl start neuron cortex
chat >/check/answer || fail "no chat: $(cat /check/answer)"

say "purged: no trace but data"
dpkg --purge cortex "$(dpkg-query -W -f '${Package}\n' 'neuron*' | head -1)"
files >/check/after
comm -13 /check/before /check/after | grep -v -e '^/var/lib/cortex\(/\|$\)' -e '^/var/lib/neuron\(/\|$\)' >/check/left || true
[ ! -s /check/left ] || fail "left behind: $(cat /check/left)"
[ -e /var/lib/neuron/hub ] && [ -e /var/lib/cortex ] || fail "data is gone, and it should stay"
say "all well"
