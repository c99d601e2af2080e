#!/bin/bash
# What an administrator does with the packages, on a machine where systemd runs. xtask/src/dist/debian.rs boots a
# fresh Debian with this as its one task; /check has the packages, and takes what is said here. /check/other has another
# flavour of neuron, where there is one.
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
pid() { systemctl show -P MainPID "$1"; }
runs() { [ "$(pid "$1")" -gt 0 ] || fail "$1 does not run"; }

# Every file that stays, but for what the system writes at any time.
files() {
    find / -xdev \( -path /check -o -path /var/lib/dpkg -o -path /var/log -o -path /tmp -o -path /var/tmp \
        -o -path /var/lib/systemd \) -prune -o -print | sort
}

ask='{"model": "smollm2", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello!"}]}'
chat() {
    curl -sS --fail-with-body -m 120 "$@" http://127.0.0.1:31313/v1/chat/completions -H 'content-type: application/json' -d "$ask"
}

# Three clients that ask and ask, until `enough`.
clients() {
    rm -f /check/enough /check/asked /check/refused /check/answers
    for _ in 1 2 3; do
        (
            trap - ERR
            set +e
            while [ ! -e /check/enough ]; do
                chat >>/check/answers 2>&1 || echo "$?" >>/check/refused
                echo >>/check/asked
            done
        ) &
    done
    sleep 1
}
enough() {
    touch /check/enough
    wait
    [ ! -e /check/refused ] || fail "$(wc -l </check/refused) of $(wc -l </check/asked) were refused: $(tail -c 2000 /check/answers)"
    [ "$(wc -l </check/asked)" -ge 10 ] || fail "only $(wc -l </check/asked) requests were made"
    echo "$(wc -l </check/asked) requests, none refused"
}

neuron=$(dpkg-deb -f /check/neuron.deb Package)
files >/check/before

say "a first installation"
install /check/cortex.deb /check/neuron.deb
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
for _ in $(seq 60); do
    if chat >/check/answer 2>&1; then break; fi
    sleep 1
done
grep -q '"choices"' /check/answer || fail "no chat: $(cat /check/answer)"
cat /check/answer
echo
for name in cortex neuron; do
    [ "$(ps -o user= -p "$(pid $name)")" = $name ] || fail "$name does not run as $name"
    [ -n "$(journalctl -q --no-pager -n 1 -u $name)" ] || fail "$name's log is not in the journal"
done

say "reloaded under requests: the same process, and the file is read again"
clients
before=$(pid cortex)
sed -i 's/^route_header = false/route_header = true/' /etc/cortex/cortex.toml
grep -q '^route_header = true' /etc/cortex/cortex.toml
cortex check --config /etc/cortex/cortex.toml >/dev/null
systemctl reload cortex
for _ in $(seq 100); do
    chat -D /check/head >/dev/null
    if grep -i '^x-cortex-route' /check/head; then break; fi
    sleep 0.2
done
grep -qi '^x-cortex-route' /check/head || fail "the reload changed nothing"
[ "$(pid cortex)" = "$before" ] || fail "a reload made another process"
enough

say "upgraded under requests: edited files stay, the daemons restart"
echo '# mine' >>/etc/cortex/cortex.toml
cortex_was=$(pid cortex) neuron_was=$(pid neuron)
clients
install /check/cortex.deb
sleep 3
install /check/neuron.deb
sleep 5
enough
grep -qx '# mine' /etc/cortex/cortex.toml || fail "the upgrade changed /etc/cortex/cortex.toml"
runs cortex && runs neuron
[ "$(pid cortex)" != "$cortex_was" ] && [ "$(pid neuron)" != "$neuron_was" ] || fail "not restarted"

if [ -e /check/other.deb ]; then
    say "another flavour of neuron in its place, and back: enabled or not as it was, and running"
    other=$(dpkg-deb -f /check/other.deb Package)
    systemctl disable neuron
    neuron_was=$(pid neuron)
    dpkg --force-confold --auto-deconfigure -i /check/other.deb || fail "dpkg -i $other"
    runs neuron
    [ "$(pid neuron)" != "$neuron_was" ] || fail "$other is not what runs"
    systemctl is-enabled neuron && fail "neuron was disabled, and is not"
    systemctl enable neuron
    dpkg --purge "$neuron"
    systemctl is-enabled neuron || fail "purging $neuron disabled $other"
    [ -e /etc/neuron/neuron.toml ] || fail "purging $neuron took the settings of $other"
    chat >/check/answer || fail "no chat: $(cat /check/answer)"
    install /check/neuron.deb
    dpkg --purge "$other"
    runs neuron
    systemctl is-enabled neuron || fail "purging $other disabled $neuron"
fi

say "removed and installed again: as it was"
systemctl disable neuron
dpkg --remove cortex "$neuron"
systemctl is-active cortex cortex.socket neuron && fail "removed and still running"
[ -e /etc/cortex/cortex.toml ] || fail "a removal took the configuration"
install /check/cortex.deb /check/neuron.deb
systemctl is-enabled cortex || fail "cortex was enabled, and is not"
systemctl is-enabled neuron && fail "neuron was disabled, and is not"
systemctl start neuron cortex
chat >/check/answer || fail "no chat: $(cat /check/answer)"

say "purged: no trace but data"
dpkg --purge cortex "$neuron"
files >/check/after
comm -13 /check/before /check/after >/check/new
grep -v -e '^/var/lib/cortex\(/\|$\)' -e '^/var/lib/neuron\(/\|$\)' /check/new >/check/left || [ $? = 1 ]
[ ! -s /check/left ] || fail "left behind: $(cat /check/left)"
[ -e /var/lib/neuron/hub ] && [ -e /var/lib/cortex ] || fail "data is gone, and it should stay"
say "all well"
