<?php
// Places a call and waits for its outcome. Debian and Ubuntu: apt-get install php-cli php-redis php-msgpack
const FINAL_STATES = ['done', 'failed', 'rejected', 'expired', 'cancelled', 'unknown'];

$url = parse_url(getenv('AMIBUS_REDIS') ?: 'redis://127.0.0.1:6379');
$redis = new Redis();
$redis->connect($url['host'], $url['port'] ?? 6379, 5.0);
if (isset($url['pass'])) {
    $redis->auth([rawurldecode($url['user']), rawurldecode($url['pass'])]);
}

// Not xAdd(), whose array cannot hold a field twice. Repeating this with the same ActionID never places a second call.
$id = 'php-' . bin2hex(random_bytes(16));
$redis->rawCommand('XADD', 'ami:{pbx1}:actions', '*', 'Action', 'Originate', 'ActionID', $id,
    'Channel', 'Local/100@default', 'Application', 'Wait', 'Data', '1',
    'Variable', 'a=1', 'Variable', 'b=2', 'Bus-Producer', 'php', 'Bus-Deadline', '+30');

// phpredis cannot subscribe and then add: subscribe() returns only when it is over. So ask the record, which is never lost.
$patience = microtime(true) + 60;
$pause_ms = 5;
do {
    usleep($pause_ms * 1000);
    $pause_ms = min($pause_ms * 2, 250);
    $record = $redis->hGetAll("ami:{pbx1}:action:$id");
    $state = $record['state'] ?? 'queued'; // no record yet: not taken up yet
} while (!in_array($state, FINAL_STATES, true) && microtime(true) < $patience);

// The record's fields are text, apart from two: `request` and `result` are msgpack.
if (isset($record['result'])) {
    $result = msgpack_unpack($record['result']);
    echo $result['response']['Message'] ?? $result['error']['message'] ?? '', "\n";
}
echo "$id $state\n";
exit($state === 'done' ? 0 : 1);
