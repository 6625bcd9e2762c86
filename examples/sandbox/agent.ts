import { createWriteStream, mkdirSync, realpathSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { sandbox, type Sandbox } from 'virtiofs-kit/sandbox';

/*
 * What a coding agent does: it forks a machine for each idea, patches the files there, runs the
 * tests, and keeps the best. Then it goes on from there. At the end the files that have changed are
 * written into the directory, which nothing has touched until then:
 *
 *     node agent.js DIRECTORY TEST-COMMAND [uml] -- PATCH-COMMAND...
 *
 * The test command prints a number: fewer is better. It is run for each patch, a shell command that
 * stands for what a model would have come up with. A patch or a test that fails is out of question.
 */

/** `S_IFREG` of stat(2). */
const REGULAR = 0o100000;

const words = process.argv.slice(2);
const split = words.indexOf('--');
const [directory, test, accelerator] = words.slice(0, split);
const patches = words.slice(split + 1);
if (split < 0 || directory === undefined || test === undefined || patches.length === 0) {
  process.stderr.write('usage: agent.js DIRECTORY TEST-COMMAND [uml] -- PATCH-COMMAND...\n');
  process.exit(2);
}
const cwd = realpathSync(directory);

/** The number that the test prints; the worst there is if it fails. */
async function scoreOf(box: Sandbox): Promise<number> {
  const { exitCode, stdout } = await box.exec(test!);
  const score = Number.parseFloat(stdout);
  return exitCode === 0 && Number.isFinite(score) ? score : Number.POSITIVE_INFINITY;
}

let best = await sandbox({ cwd, timeout: 600, accelerator: accelerator === 'uml' ? 'uml' : undefined });
try {
  let bestScore = await scoreOf(best);
  console.log(`as it is: ${bestScore}`);
  const forks = await best.fork(patches.length);
  for (const [index, fork] of forks.entries()) {
    const patch = patches[index]!;
    const { exitCode } = await fork.exec(patch);
    const score = exitCode === 0 ? await scoreOf(fork) : Number.POSITIVE_INFINITY;
    console.log(`${patch}: ${score}`);
    const loser = score < bestScore ? best : fork;
    if (loser === best) [best, bestScore] = [fork, score];
    await loser.stop();
  }
  for (const change of await best.diff(cwd)) {
    const { kind, path } = change;
    const after = await change.after();
    if (kind === 'removed') rmSync(path, { recursive: true, force: true });
    else if (after?.type !== REGULAR) continue;
    else {
      mkdirSync(dirname(path), { recursive: true });
      await pipeline(after.stream(), createWriteStream(path, { mode: after.attributes.mode & 0o777 }));
    }
    console.log(`${kind} ${path}`);
  }
} finally {
  await best.stop();
}
