#!/usr/bin/env bash
# Places a call and waits for its outcome. redis-cli takes the password from REDISCLI_AUTH.
set -euo pipefail

redis() {
  redis-cli -h "${REDIS_HOST:-127.0.0.1}" -p "${REDIS_PORT:-6379}" ${REDIS_USER:+--user "$REDIS_USER"} "$@"
}

id="shell-$(cat /proc/sys/kernel/random/uuid)"
record="ami:{pbx1}:action:$id" # the channel has the same name

# Subscribe first: what is published earlier is not heard. The first three lines confirm the subscription.
exec 3< <(redis SUBSCRIBE "$record")
trap 'kill $!' EXIT
for _ in 1 2 3; do read -r -u 3; done

redis XADD 'ami:{pbx1}:actions' '*' Action Originate ActionID "$id" Channel Local/100@default \
  Application Wait Data 1 Variable a=1 Variable b=2 Bus-Producer shell Bus-Deadline +30 > /dev/null

# A message only wakes us up: it can be lost, the record cannot. No record yet means that it is still queued.
until state=$(redis HGET "$record" state) && [[ $state =~ ^(done|failed|rejected|expired|cancelled|unknown)$ ]]; do
  read -r -t 1 -u 3 || true
done

redis HMGET "$record" uniqueid error_code error
echo "$id $state"
[[ $state == done ]]
