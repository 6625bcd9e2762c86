import { Duplex } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { Client } from 'undici';

/**
 * What the JavaScript engine does with WebAssembly: compiles all of a module when it is loaded, and
 * never again.
 */
const COMPILE_ONCE = ['--no-wasm-lazy-compilation', '--no-wasm-tier-up', '--no-wasm-dynamic-tiering'];
/** Of engines that compile what a module calls after so many calls: from Node 22 on. */
const COMPILE_CALLED = '--wasm-wrapper-tiering-budget=1';
/** Answers that are parsed: each callback of the parser is called more often than once. */
const ANSWERS = 8;

/** A connection to a server of small answers. */
function answering(): Duplex {
  return new Duplex({
    read() {
      // Answers are pushed.
    },
    write(_request, _encoding, done) {
      this.push('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx');
      done();
    },
  });
}

let compiled: Promise<void> | undefined;

/**
 * Has the HTTP client's parser, which is WebAssembly, compiled as a whole, if it was not loaded
 * before. A confined daemon gets no memory for machine code later, and the engine would end it.
 */
export function compileParser(): Promise<void> {
  return (compiled ??= compile());
}

async function compile(): Promise<void> {
  for (const flag of COMPILE_ONCE) setFlagsFromString(flag);
  if (Number.parseInt(process.versions.node, 10) >= 22) setFlagsFromString(COMPILE_CALLED);
  const client = new Client('http://localhost', {
    connect: (_options, connected) => setImmediate(() => connected(null, answering() as never)),
  });
  for (let i = 0; i < ANSWERS; i++) {
    const { body } = await client.request({ path: '/', method: 'GET' });
    await body.dump();
  }
  await client.close();
}
