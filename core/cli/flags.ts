import { Option, type Command } from 'commander';
import { parseOption, type OptionDescription } from '../plugins/options/option-descriptions.js';

/** The values of parsed flags, by commander's names. */
export type Values = Readonly<Record<string, unknown>>;

/** The values of the options that were given, by the names in their schema. */
export function givenOptions(options: readonly OptionDescription[], values: Values): Record<string, unknown> {
  const given = options.map((option) => [option.name, values[keyOf(option)]]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

/** The value of a flag that takes a word, if it was given. */
export function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** commander's name for an option's value: the flag in camel case. */
function keyOf(option: OptionDescription): string {
  return option.flag.replaceAll(/-[a-z0-9]/g, (part) => part.slice(1).toUpperCase());
}

/** Adds an option to a command as a flag. */
export function addFlag(command: Command, option: OptionDescription): void {
  const notes = [
    option.required ? 'required' : '',
    option.initial === undefined || option.placeholder === undefined ? '' : `default ${option.initial}`,
    option.repeatable ? 'repeatable' : '',
  ];
  const text = [option.description, ...notes].filter((note) => note !== '').join('; ');
  if (option.placeholder === undefined) {
    // Help shows only that one of the two flags that changes the default.
    const isOn = option.initial === 'true';
    const off = new Option(`--no-${option.flag}`, `not: ${text}`).hideHelp(!isOn);
    command.addOption(new Option(`--${option.flag}`, text).hideHelp(isOn)).addOption(off);
    command.setOptionValue(keyOf(option), undefined);
    return;
  }
  const flag = new Option(`--${option.flag} <${option.placeholder}>`, text);
  command.addOption(
    flag.argParser((value, before: unknown) => {
      const parsed = parseOption(option, value);
      return option.repeatable ? [...asArray(before ?? []), ...asArray(parsed)] : parsed;
    }),
  );
}

function asArray(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [value];
}
