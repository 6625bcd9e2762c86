import * as z from 'zod';
import type { ZodType } from 'zod';
import { UsageError } from '../../backend/index.js';
import { suggestion } from './suggestion.js';
import { parseYaml } from './yaml.js';

/** An option as its schema describes it. Help texts, flags and documentation are made from it. */
export interface OptionDescription {
  /** Its name in a configuration file: `sharedDir`. */
  readonly name: string;
  /**
   * Its name on the command line: `shared-dir`, or what its `meta({ flag })` says (`lower` for
   * `lowers`).
   */
  readonly flag: string;
  readonly description: string;
  /** What stands for the value in help texts: `DIR`. Undefined for a switch. */
  readonly placeholder: string | undefined;
  readonly required: boolean;
  /** The default as help texts show it; undefined if there is none worth showing. */
  readonly initial: string | undefined;
  /** The option takes several values. */
  readonly repeatable: boolean;
  /** It has no flag: its place on the command line says what it is. */
  readonly positional: boolean;
  /** The JSON types of its values. */
  readonly types: ReadonlySet<string>;
}

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly placeholder?: string;
  readonly flag?: string;
  readonly positional?: boolean;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
}

/** The options of a `z.object`, in its order. */
export function describeOptions(schema: ZodType): OptionDescription[] {
  const json = toJson(schema);
  return Object.entries(json.properties ?? {}).map(([name, property]) =>
    describe(name, property, json.required?.includes(name) ?? false),
  );
}

function toJson(schema: ZodType): JsonSchema {
  return z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
}

/** The part of a schema at a path. */
function jsonAt(schema: JsonSchema, path: Path): JsonSchema | undefined {
  let part: JsonSchema | undefined = schema;
  for (const key of path) part = typeof key === 'number' ? part?.items : part?.properties?.[String(key)];
  return part;
}

function describe(name: string, schema: JsonSchema, required: boolean): OptionDescription {
  const types = typesOf(schema);
  const repeatable = types.has('array');
  const values = repeatable && schema.items !== undefined ? typesOf(schema.items) : types;
  const description = schema.description ?? '';
  return {
    name,
    flag: schema.flag ?? toFlag(name),
    description,
    placeholder: types.has('boolean') && types.size === 1 ? undefined : placeholder(name, schema, values),
    required: required && schema.default === undefined,
    // A default that the description explains is mostly computed, and differs between machines.
    initial: /\bdefault\b/i.test(description) ? undefined : showDefault(schema.default),
    repeatable,
    positional: schema.positional ?? false,
    types: values,
  };
}

function typesOf(schema: JsonSchema, types = new Set<string>()): Set<string> {
  for (const type of typeof schema.type === 'string' ? [schema.type] : (schema.type ?? [])) types.add(type);
  for (const part of schema.anyOf ?? []) typesOf(part, types);
  return types;
}

/**
 * Converts a value from the command line to the type that the option's schema expects. The schema
 * checks it afterwards.
 */
export function parseOption(option: OptionDescription, text: string): unknown {
  const { types } = option;
  if (types.has('boolean') && (text === 'true' || text === 'false')) return text === 'true';
  const isNumber = (types.has('number') || types.has('integer')) && !types.has('string');
  if (isNumber && text.trim() !== '' && !Number.isNaN(Number(text))) return Number(text);
  if (!types.has('object') && !types.has('array')) return text;
  return parseYaml(text, `--${option.flag} ${text}`);
}

function placeholder(name: string, schema: JsonSchema, types: ReadonlySet<string>): string {
  if (schema.placeholder !== undefined) return schema.placeholder;
  const choices = schema.enum ?? schema.items?.enum;
  if (choices !== undefined) return choices.join('|');
  if (types.has('integer') || (types.has('number') && !types.has('string'))) return 'N';
  return types.has('object') ? 'YAML' : toFlag(name).toUpperCase();
}

function showDefault(value: unknown): string | undefined {
  if (value === undefined || value === false || value === '') return undefined;
  if (Array.isArray(value) && value.length === 0) return undefined;
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  return text === '{}' ? undefined : text;
}

/** `sharedDir` → `shared-dir`. */
export function toFlag(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/**
 * Checks a value from outside the program.
 * @param what names the value in errors, such as `exports[1]` or `--backend s3`; empty for a file's
 * top level.
 * @param name writes an option's path in errors. Default: dots and brackets after `what`.
 * @throws UsageError that names every mistake.
 */
export function check<T>(schema: ZodType<T>, value: unknown, what: string, name = dotted(what)): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new UsageError(result.error.issues.map((issue) => explain(issue, schema, value, name)).join('; '));
}

type Path = readonly PropertyKey[];

function explain(
  issue: z.core.$ZodIssue,
  schema: ZodType,
  value: unknown,
  name: (path: Path) => string,
): string {
  if (issue.code === 'unrecognized_keys') {
    const known = Object.keys(jsonAt(toJson(schema), issue.path)?.properties ?? {});
    return issue.keys
      .map((key) => `${name([...issue.path, key])}: no such option${suggestion(key, known)}`)
      .join('; ');
  }
  const given = at(value, issue.path);
  const isMissing = given === undefined && (issue.code === 'invalid_type' || issue.code === 'invalid_union');
  if (isMissing) return `${name(issue.path)} is required`;
  if (issue.code === 'invalid_value') {
    const values = issue.values.map(String);
    return `${name(issue.path)} ${String(given)}: must be ${values.join(', ')}${suggestion(String(given), values)}`;
  }
  const shown = typeof given === 'object' || given === undefined ? '' : ` ${String(given)}`;
  return `${name(issue.path)}${shown}: ${plain(issue, shown.trim())}`;
}

/** What is wrong, without the value itself, with which a schema's own message may begin. */
function plain(issue: z.core.$ZodIssue, shown: string): string {
  if (issue.code === 'invalid_type')
    return `must be ${/^[aeio]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`;
  const isNumber = 'origin' in issue && (issue.origin === 'number' || issue.origin === 'int');
  if (issue.code === 'too_small' && isNumber) return `must be at least ${issue.minimum}`;
  if (issue.code === 'too_big' && isNumber) return `must be at most ${issue.maximum}`;
  return issue.message.startsWith(`${shown}: `) ? issue.message.slice(shown.length + 2) : issue.message;
}

function at(value: unknown, path: Path): unknown {
  let part = value;
  for (const key of path) part = (part as Record<PropertyKey, unknown> | undefined)?.[key];
  return part;
}

/** `exports[1].cache.data`, after `what`. */
function dotted(what: string): (path: Path) => string {
  return (path) => {
    const text = path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
    return /^$|\s$/.test(what) ? what + text.replace(/^\./, '') : what + text;
  };
}
