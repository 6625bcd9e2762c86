import { FsError } from '../../backend/index.js';
import { type ContractCase, CREATES, type Trial, writeFile } from '../case.js';
import { ContractFailure } from '../expect.js';
import { Difference, randomSequence, runSequence, script, shorten } from '../sequences/index.js';

/** How many sequences are tried, and how long each is. */
const SEQUENCES = 12;
const LENGTH = 40;

/** The rule that a backend does what a model of a file system does. */
export const sequenceCases: readonly ContractCase[] = [
  {
    name: 'random sequences of operations do what they do in a model of a file system',
    needs: [CREATES, 'write', 'read', 'mkdir', 'unlink', 'rmdir', 'rename', 'setattr', 'readdir'],
    async run(trial) {
      const linkable = await hasLinks(trial);
      let tries = 0;
      /** Each sequence gets a directory of its own. */
      const differs = async (sequence: Parameters<typeof script>[0]): Promise<Difference | undefined> => {
        const { id } = await trial.client.mkdir(trial.directory, `sequence-${++tries}`);
        const inner: Trial = { ...trial, directory: id };
        try {
          await runSequence(inner, sequence, linkable);
          return undefined;
        } catch (error) {
          if (error instanceof Difference) return error;
          throw error;
        }
      };
      for (let number = 0; number < SEQUENCES; number++) {
        const sequence = randomSequence(trial.seed * SEQUENCES + number, LENGTH);
        let difference = await differs(sequence);
        if (difference === undefined) continue;
        const shortest = await shorten(sequence.slice(0, difference.length), async (shorter) => {
          const again = await differs(shorter).catch(() => undefined);
          difference = again ?? difference;
          return again !== undefined;
        });
        throw new ContractFailure(
          'a random sequence',
          'what the model does',
          `${difference.message}, by this in an empty directory of a mount:\n${script(shortest)}`,
        );
      }
    },
  },
];

/** Whether the backend makes hard links; some have the method, and refuse. */
async function hasLinks(trial: Trial): Promise<boolean> {
  if (trial.backend.link === undefined) return false;
  const { id } = await writeFile(trial, 'linked', '');
  try {
    await trial.client.link(id, trial.directory, 'link');
    return true;
  } catch (error) {
    if (error instanceof FsError && (error.code === 'EPERM' || error.code === 'EOPNOTSUPP')) return false;
    throw error;
  }
}
