// Places a call and waits for its outcome. npm install redis@5 @msgpack/msgpack@3
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { decode } from '@msgpack/msgpack';
import { createClient, RESP_TYPES } from 'redis';

const url = process.env.AMIBUS_REDIS ?? 'redis://127.0.0.1:6379';
const redis = await createClient({ url }).on('error', console.error).connect();
const binary = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
const subscriber = await redis.duplicate().on('error', console.error).connect();

// One subscription serves all our actions. It comes before the first XADD: what is published earlier is not heard.
const reply = `node-${randomUUID()}`;
const waiting = new Map();
const hear = (message) => {
  const result = decode(message);
  waiting.get(result.action_id)?.(result);
};
await subscriber.subscribe(`ami:{pbx1}:reply:${reply}`, hear, true); // true: as Buffers, for they are msgpack

async function request(...fields) {
  const id = `node-${randomUUID()}`;
  const heard = new Promise((resolve) => waiting.set(id, resolve));
  try {
    // Not xAdd(), whose object cannot hold a field twice.
    await redis.sendCommand(['XADD', 'ami:{pbx1}:actions', '*', 'ActionID', id, 'Bus-Reply', reply, ...fields]);
    for (;;) {
      const result = await Promise.race([heard, setTimeout(1000, null, { ref: false })]);
      if (result) return result;
      // A message can be lost, the record cannot. It has a result once the action is settled.
      const recorded = await binary.hGet(`ami:{pbx1}:action:${id}`, 'result');
      if (recorded) return decode(recorded);
    }
  } finally {
    waiting.delete(id);
  }
}

const result = await request(
  'Action', 'Originate', 'Channel', 'Local/100@default', 'Application', 'Wait', 'Data', '1',
  'Variable', 'a=1', 'Variable', 'b=2', 'Bus-Producer', 'node', 'Bus-Deadline', '+30',
);
console.log(result.response?.Message ?? result.error?.message);
console.log(result.action_id, result.state);
subscriber.destroy();
redis.destroy();
process.exitCode = result.state === 'done' ? 0 : 1;
