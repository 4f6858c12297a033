// The side of the frame protocol that runs in a Node.js sandbox: see crates/executor/PROTOCOL.md.

import { connect } from 'node:net';
import { createRequire } from 'node:module';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { AsyncLocalStorage } from 'node:async_hooks';

const HELLO = 1, LOAD = 2, LOADED = 3, INVOKE = 4, RESULT = 5;
const FRAME_MAX = 64 * 2 ** 20;
const OUTPUT_MAX = 2 ** 20;
const CUT = '\n[output cut: a call may print 1 MiB]\n';
const EMPTY = Buffer.alloc(0);

// Tells which call prints. While it is in use every promise is slower, so it is off unless a call
// wants its output; `quiet` counts the running calls that don't.
const calls = new AsyncLocalStorage();
let heard = 0;
let quiet = 0;

function open(slot, onFrame) {
  const socket = connect(process.env.SERVERLEDGE_SOCKET);
  let pending = EMPTY;
  socket.on('data', (chunk) => {
    pending = pending.length ? Buffer.concat([pending, chunk]) : chunk;
    while (pending.length >= 9) {
      const end = 4 + pending.readUInt32BE(0);
      if (pending.length < end) {
        // A large frame: collect its pieces once instead of copying at each.
        if (end > 2 ** 16) collect(socket, end);
        return;
      }
      const bodyAt = 9 + pending.readUInt32BE(5);
      const frame = { kind: pending[4], head: pending.subarray(9, bodyAt), body: pending.subarray(bodyAt, end) };
      pending = pending.subarray(end);
      onFrame(socket, frame);
    }
  });
  const collect = (source, end) => {
    const listeners = source.listeners('data');
    const parts = [pending];
    let size = pending.length;
    source.removeAllListeners('data');
    const more = (chunk) => {
      parts.push(chunk);
      size += chunk.length;
      if (size < end) return;
      source.removeListener('data', more);
      for (const listener of listeners) source.on('data', listener);
      pending = EMPTY;
      listeners[0](Buffer.concat(parts));
    };
    source.on('data', more);
  };
  // The node is gone: so is the reason to be.
  socket.on('close', () => process.reallyExit(0));
  socket.on('error', () => process.reallyExit(0));
  send(socket, HELLO, { slot, runtime: 'nodejs', version: process.versions.node });
  return socket;
}

function send(socket, kind, head, body = EMPTY) {
  const headBytes = Buffer.from(JSON.stringify(head));
  const prefix = Buffer.allocUnsafe(9);
  prefix.writeUInt32BE(5 + headBytes.length + body.length, 0);
  prefix[4] = kind;
  prefix.writeUInt32BE(headBytes.length, 5);
  socket.write(Buffer.concat([prefix, headBytes, body]));
}

// What one call prints; the original's order: standard output, then standard error.
class Output {
  constructor() {
    this.parts = [[], []];
    this.room = OUTPUT_MAX;
    this.cut = false;
  }

  write(stream, text) {
    if (text.length > this.room) {
      this.cut = true;
      text = text.slice(0, this.room);
    }
    this.room -= text.length;
    if (text) this.parts[stream].push(text);
  }

  text() {
    const [out, err] = this.parts.map((part) => part.join(''));
    if (!out && !err && !this.cut) return '';
    return `${out}\n${err}${this.cut ? CUT : ''}`;
  }
}

let completing = false;

function capture(stream, index) {
  const real = stream.write.bind(stream);
  stream.write = (chunk, encoding, callback) => {
    const call = calls.getStore();
    if (call?.done || (!call && !quiet)) return real(chunk, encoding, callback);
    if (call) {
      const known = typeof encoding === 'string' ? encoding : 'utf8';
      call.output.write(index, typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString(known));
    }
    const done = typeof encoding === 'function' ? encoding : callback;
    // At once, as a tight loop of prints would pile up ticks; a callback that prints waits its turn.
    if (done && !completing) {
      completing = true;
      try {
        done();
      } finally {
        completing = false;
      }
    } else if (done) {
      process.nextTick(done);
    }
    return true;
  };
}

// An error for the wire. Never throws: what was thrown is the function's own, and so may its
// getters and `toString` be.
function failure(error) {
  const attempt = (make, otherwise) => {
    try {
      return make();
    } catch {
      return otherwise;
    }
  };
  const text = (make) => attempt(() => String(make()), '(its text could not be made)');
  if (!attempt(() => error instanceof Error, false)) {
    const thrown = text(() => (typeof error === 'object' ? JSON.stringify(error) : error));
    return { type: 'Error', message: `thrown: ${thrown}`.slice(0, 16384), stack: '' };
  }
  const stack = text(() => error.stack ?? '').split('\n').filter((line) => !line.includes('/.serverledge/'));
  return {
    type: text(() => error.name || error.constructor?.name || 'Error'),
    message: text(() => error.message).slice(0, 16384),
    stack: stack.join('\n').slice(0, 65536),
  };
}

// The file that `name` stands for, with or without its ending.
function fileOf(directory, name) {
  const endings = ['', '.js', '.mjs', '.cjs', '/index.js', '/index.mjs'];
  const isFile = (path) => /\.[cm]?js$/.test(path) && existsSync(path);
  return endings.map((ending) => join(directory, name + ending)).find(isFile);
}

async function importFile(file) {
  if (file.endsWith('.mjs')) return import(pathToFileURL(file).href);
  try {
    return createRequire(file)(file);
  } catch (error) {
    const isModule = error?.code === 'ERR_REQUIRE_ESM' || (error instanceof SyntaxError
      && /import statement|Unexpected token 'export'|await is only valid/.test(error.message));
    if (!isModule) throw error;
    return import(pathToFileURL(file).href);
  }
}

async function load({ handler, handler_dir: directory }) {
  let file = fileOf(directory, handler);
  let name;
  if (!file && handler.includes('.')) {
    const dot = handler.lastIndexOf('.');
    name = handler.slice(dot + 1);
    file = fileOf(directory, handler.slice(0, dot));
  }
  if (!file) {
    const names = readdirSync(directory).slice(0, 50).join(', ');
    throw new Error(`handler '${handler}': there is no such file in the code, which has: ${names}`);
  }
  const module = await importFile(file);
  const inner = module?.default;
  const candidates = name
    ? [module?.[name], inner?.[name]]
    : [module, inner, module?.handler, inner?.handler];
  const found = candidates.find((candidate) => typeof candidate === 'function');
  if (!found) throw new Error(`handler '${handler}': ${file.slice(directory.length + 1)} exports no function${name ? ` '${name}'` : ''}`);
  return found;
}

function contextOf(template, head) {
  return {
    ...template,
    requestId: head.id,
    deadline: head.deadline,
    getRemainingTimeInMillis: () => Math.max(0, Math.floor(head.deadline * 1000 - Date.now())),
  };
}

async function invoke(handler, template, frame) {
  const head = JSON.parse(frame.head);
  const reply = { ok: true, id: head.id };
  let result = EMPTY;
  const call = head.output ? { output: new Output(), done: false } : null;
  if (call) heard += 1;
  else quiet += 1;
  try {
    const params = JSON.parse(frame.body);
    const context = contextOf(template, head);
    const run = () => handler(params, context);
    const value = await (call ? calls.run(call, run) : run());
    result = Buffer.from(JSON.stringify(value) ?? 'null');
    if (result.length > FRAME_MAX - 8 * OUTPUT_MAX) {
      const size = result.length;
      result = EMPTY;
      throw new RangeError(`the function's result of ${size} bytes is too large`);
    }
  } catch (error) {
    reply.ok = false;
    reply.error = failure(error);
  }
  if (call) {
    // What the call left running prints to the sandbox's log, not into a reply.
    call.done = true;
    heard -= 1;
    if (!heard) calls.disable();
    const text = call.output.text();
    if (text) reply.output = text;
  } else {
    quiet -= 1;
  }
  return [reply, result];
}

let serving;

async function onFrame(socket, frame) {
  if (frame.kind === INVOKE && serving) {
    const [reply, result] = await invoke(serving.handler, serving.template, frame);
    send(socket, RESULT, reply, result);
  } else if (frame.kind === LOAD && !serving) {
    const head = JSON.parse(frame.head);
    for (let slot = 1; slot < head.slots; slot += 1) open(slot, onFrame);
    try {
      const handler = await load(head);
      serving = { handler, template: { functionName: head.function, memoryMb: head.memory_mb } };
      send(socket, LOADED, { ok: true });
    } catch (error) {
      send(socket, LOADED, { ok: false, error: failure(error) });
    }
  } else {
    process.reallyExit(70);
  }
}

capture(process.stdout, 0);
capture(process.stderr, 1);
// A failure outside of any call leaves the process in an unknown state.
process.on('uncaughtException', (error) => {
  const { stack, message } = failure(error);
  // The call that it came from, if any, gets no reply: this is for the sandbox's log.
  calls.exit(() => process.stderr.write(`uncaught: ${stack || message}\n`, () => process.reallyExit(1)));
});
open(0, onFrame);
// Goes the ways of a first call once, while the node is busy with the sandbox's limits or has no
// function for it yet.
setImmediate(() => {
  if (serving) return;
  try {
    const handler = createRequire(import.meta.url)('./warm-up.js');
    const frame = { head: '{"id":"","deadline":0.5,"output":false}', body: 'null' };
    invoke(handler, {}, frame).catch(() => {});
  } catch {
    // Then the first call takes longer.
  }
});
