import type { Logger } from '../backend/index.js';

/** Lines of one text that may come at once, and how many more each second. */
const BURST = 10;
const PER_SECOND = 1;
/** Texts that are told apart; the texts are the program's own, of which there are fewer. */
const MOST_TEXTS = 256;

interface Allowance {
  left: number;
  /** When it was last made up, in milliseconds. */
  at: number;
  /** Lines that were left out since the last one. */
  leftOut: number;
}

type Level = 'debug' | 'info' | 'warn' | 'error';

/**
 * A logger for what one guest, or one socket, can have logged: each text so often at once, and then
 * once a second. The next line of a text that was left out says how many were.
 */
export function limited(log: Logger): Logger {
  const allowances = new Map<string, Allowance>();

  function take(text: string): Allowance | undefined {
    const key = allowances.size < MOST_TEXTS || allowances.has(text) ? text : '';
    const now = performance.now();
    let allowance = allowances.get(key);
    if (allowance === undefined) {
      allowance = { left: BURST, at: now, leftOut: 0 };
      allowances.set(key, allowance);
    }
    allowance.left = Math.min(BURST, allowance.left + ((now - allowance.at) / 1000) * PER_SECOND);
    allowance.at = now;
    if (allowance.left < 1) {
      allowance.leftOut += 1;
      return undefined;
    }
    allowance.left -= 1;
    return allowance;
  }

  function line(level: Level): (fields: object, message: string) => void {
    return (fields, message) => {
      const allowance = take(message);
      if (allowance === undefined) return;
      const { leftOut } = allowance;
      allowance.leftOut = 0;
      log[level](leftOut === 0 ? fields : { ...fields, leftOut }, message);
    };
  }

  // Whoever asks for every detail gets it.
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
  };
}
