import { sandbox } from 'virtiofs-kit/sandbox';

/*
 * A lab: one machine is set up, and others start from its files, side by side. Each knows its
 * number and goes its own way:
 *
 *     node forks.js [COUNT] [uml]
 */

const [count = '10', accelerator] = process.argv.slice(2);

const first = await sandbox({ memory: 256, accelerator: accelerator === 'uml' ? 'uml' : undefined });
const boxes = [first];
try {
  await first.exec('mkdir /lab; echo "the same for all" > /lab/common');
  const started = performance.now();
  const forks = await first.fork(Number(count));
  boxes.push(...forks);
  console.error(`${count} forks after ${Math.round(performance.now() - started)} ms`);
  const outputs = await Promise.all(
    forks.map((fork, number) => fork.exec(`echo ${number} > /lab/own; cat /lab/common /lab/own`)),
  );
  for (const { stdout } of outputs) console.log(stdout.trimEnd().replace('\n', ': '));
} finally {
  await Promise.all(boxes.map((box) => box.stop()));
}
