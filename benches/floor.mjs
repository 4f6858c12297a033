// The interpreter's side of the floor: parse, call, encode, and nothing else.

import { connect } from 'node:net';

const handler = () => null;
const node = connect(process.argv[2]);
node.on('data', (data) => {
  const result = handler(JSON.parse(data.subarray(4)).Params, {});
  const reply = Buffer.from(JSON.stringify(result));
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(reply.length);
  node.write(Buffer.concat([prefix, reply]));
});
node.on('close', () => process.exit(0));
