import { findUml } from '../../core/guest/uml.js';

/**
 * Why User-Mode Linux does not run here, for a test's `skip`: it is not installed, or the processor
 * is one that it cannot deal with. False where it runs.
 */
export function whyNoUml(): string | false {
  try {
    findUml();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * What boots a guest fastest: User-Mode Linux takes seconds where emulation takes minutes. With
 * `VIRTIOFS_KIT_GUESTS=qemu` in the environment, QEMU.
 */
export function fastest(): 'uml' | undefined {
  return process.env['VIRTIOFS_KIT_GUESTS'] !== 'qemu' && whyNoUml() === false ? 'uml' : undefined;
}
