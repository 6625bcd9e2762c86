import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Random } from '../support/random.js';

/*
 * Random bytes that are led by answers: an input that is answered as none was before is kept, and
 * further ones are made from it. What is kept is the corpus, a list of lines in base64. (Coverage
 * would lead better. V8's own takes 100 ms for each look, and jazzer.js asks for a newer glibc than
 * the machines have on which this must run.)
 */

const folder = fileURLToPath(new URL('../../../test/fuzz/corpora', import.meta.url));

/** Bytes of the longest input. */
const LONGEST = 2048;
/** Values of a word, little-endian, at edges. */
const EDGES = [0, 1, 2, 4, 8, 12, 16, 40, 255, 256, 4095, 4096, 0x7fffffff, 0x80000000, 0xffffffff];

export interface Guided {
  /** Name of the corpus. */
  readonly name: string;
  /** Inputs to begin with, besides the corpus. */
  readonly seeds: readonly Uint8Array[];
  /**
   * Must not throw, whatever it gets.
   * @returns the kinds of answers that the input got.
   */
  run(input: Uint8Array): readonly string[] | Promise<readonly string[]>;
}

/** The inputs of a corpus. */
export function corpusOf(name: string): Uint8Array[] {
  const path = join(folder, `${name}.txt`);
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => Uint8Array.from(Buffer.from(line, 'base64')));
}

/** Makes an input from one of the corpus, sometimes with a part of another. */
function mutate(random: Random, corpus: readonly Uint8Array[]): Uint8Array {
  const bytes = [...random.pick(corpus)];
  for (let i = 1 + random.below(4); i > 0; i--) {
    const at = random.below(bytes.length + 1);
    switch (random.below(6)) {
      case 0:
        if (at < bytes.length) bytes[at] = bytes[at]! ^ (1 << random.below(8));
        break;
      case 1:
        if (at < bytes.length) bytes[at] = random.below(256);
        break;
      case 2: {
        const word = random.pick(EDGES);
        for (let k = 0; k < 4; k++) if (at + k < bytes.length) bytes[at + k] = (word >>> (8 * k)) & 255;
        break;
      }
      case 3:
        bytes.splice(at, random.below(16));
        break;
      case 4:
        bytes.splice(at, 0, ...bytes.slice(at, at + random.below(64)));
        break;
      default: {
        const other = random.pick(corpus);
        const from = random.below(other.length + 1);
        bytes.splice(at, 0, ...other.subarray(from, from + random.below(128)));
      }
    }
  }
  return Uint8Array.from(bytes.slice(0, LONGEST));
}

/** An input after which `run` threw. */
class Found extends Error {
  constructor(input: Uint8Array, cause: unknown) {
    super(`input in base64: ${Buffer.from(input).toString('base64')}`, { cause });
  }
}

/**
 * Runs the corpus, then `inputs` more.
 * @param keeps whether what is found is written into the corpus.
 * @returns how many kinds of answers there were, and how many inputs were kept.
 * @throws Found for the first input that makes it throw.
 */
export async function guided(
  { name, seeds, run }: Guided,
  random: Random,
  inputs: number,
  keeps: boolean,
): Promise<{ readonly answers: number; readonly kept: number }> {
  const answers = new Set<string>();
  const corpus: Uint8Array[] = [];
  const take = async (input: Uint8Array): Promise<void> => {
    const before = answers.size;
    try {
      for (const answer of await run(input)) answers.add(answer);
    } catch (error) {
      throw new Found(input, error);
    }
    if (answers.size > before) corpus.push(input);
  };
  for (const input of [...corpusOf(name), ...seeds]) await take(input);
  for (let made = 0; made < inputs; made++) await take(mutate(random, corpus));
  if (keeps) {
    const lines = corpus.map((input) => Buffer.from(input).toString('base64'));
    writeFileSync(join(folder, `${name}.txt`), `${lines.join('\n')}\n`);
  }
  return { answers: answers.size, kept: corpus.length };
}
