import { resolve } from 'node:path';
import type { Command } from 'commander';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';
import { check, createLogger, describeOptions } from '../../plugins/index.js';
import type { LogConfig } from '../../plugins/options/config-schema.js';
import { referenceOf } from '../../sandbox/image/registry/reference.js';
import { Sandbox } from '../../sandbox/index.js';
import { addFlag, givenOptions, type Values } from '../flags.js';
import { addLogOptions, logConfigOf } from '../serving/log-and-services.js';
import { publishPort } from '../detached-sandboxes/holder.js';
import { checkName } from '../detached-sandboxes/places.js';
import { HOLD, startDetached } from '../detached-sandboxes/start.js';
import type { StartOptions } from '../detached-sandboxes/start-options.js';
import { show } from '../detached-sandboxes/visit.js';
import { Stopped, stopSignal } from '../serving/signals.js';
import { guestSchema, TIMED_OUT } from './guest.js';
import { addSandboxCommands } from './sandbox-commands.js';
import { attended, placeAndTag, portsOf, terminalSize, variable, wantsTerminal } from './sandbox-words.js';

function absolutePaths(what: string) {
  return z
    .array(z.string().startsWith('/', 'must be absolute'))
    .default([])
    .describe(what)
    .meta({ placeholder: 'PATH' });
}

const sandboxSchema = guestSchema.omit({ mountPoint: true, hostTools: true }).extend({
  share: z
    .array(z.string().min(1))
    .default([])
    .describe('directory that is shared for real, at its own path; DIR:ro without changes')
    .meta({ placeholder: 'DIR[:ro]' }),
  mount: z
    .array(z.string().regex(/^\/[^=]+=\{/, 'must be PATH={"type":"s3",…}'))
    .default([])
    .describe('path at which the command sees, and changes, what a backend shows, with its options as JSON')
    .meta({ placeholder: 'PATH=JSON' }),
  root: z
    .string()
    .min(1)
    .optional()
    .describe("directory with a Linux system whose files the command sees in place of this host's")
    .meta({ placeholder: 'DIR' }),
  image: z
    .string()
    .min(1)
    .optional()
    .describe(
      "image of a container in place of this host's files: an OCI layout, of docker save, or docker://HOST/NAME:TAG",
    )
    .meta({ placeholder: 'PATH[:TAG]' }),
  hide: absolutePaths('path that the command does not see, nor can make'),
  deny: absolutePaths('path of which the command sees the name, and can do nothing with it (EACCES)'),
  redirect: z
    .array(z.string().regex(/^\/[^:]*:\//, 'must be PATH:PATH, both absolute'))
    .default([])
    .describe('path at which the command sees what is at another path')
    .meta({ placeholder: 'PATH:PATH' }),
  readOnly: absolutePaths('path below which the command changes nothing'),
  hideSecrets: z
    .boolean()
    .default(true)
    .describe('hide keys, tokens and histories of home directories (the list is in docs/sandboxes.md)'),
  audit: z
    .string()
    .min(1)
    .optional()
    .describe('file to which a line of JSON is added for what the command reads, changes, and is refused')
    .meta({ placeholder: 'FILE' }),
  allow: z
    .array(z.string().min(1))
    .default([])
    .describe('name that the command may reach, by HTTP and HTTPS; *.NAME for all below. Default: nothing')
    .meta({ placeholder: 'NAME[:PORT]' }),
  allowInternal: z
    .boolean()
    .default(false)
    .describe('names of --allow may lead to private addresses, and to this host'),
  header: z
    .array(z.string().regex(/^\S+ [\w-]+=\w+$/, 'must be "URL NAME=VARIABLE"'))
    .default([])
    .describe('header that requests to a URL get on their way, of a variable that the command does not see')
    .meta({ placeholder: '"URL NAME=VARIABLE"' }),
  publish: z
    .array(z.string().regex(/^\d{1,5}(:\d{1,5})?$/, 'must be PORT or PORT:PORT'))
    .default([])
    .describe("port of this host's loopback device that leads to one of the sandbox")
    .meta({ placeholder: 'PORT[:PORT]' }),
  env: z
    .array(z.string().min(1))
    .default([])
    .describe("variable of the command's environment; NAME alone has the value that it has here")
    .meta({ placeholder: 'NAME[=VALUE]' }),
  user: z
    .string()
    .min(1)
    .optional()
    .describe("who runs the command, by name or number; default root, or the image's")
    .meta({ placeholder: 'USER[:GROUP]' }),
  cwd: z
    .string()
    .startsWith('/', 'must be absolute')
    .optional()
    .describe("where the command starts; default: the current directory, or the image's")
    .meta({ placeholder: 'DIR' }),
  size: z
    .string()
    .regex(/^\d+[kmgt]?$/i, 'must be bytes, or such as 512m or 2g')
    .transform((text) => Number.parseInt(text, 10) * 1024 ** ' kmgt'.indexOf(unitOf(text)))
    .optional()
    .describe('most bytes of what the command writes; default 1g')
    .meta({ placeholder: 'SIZE' }),
  files: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe('most files and directories that it changes or makes; default 1,000,000')
    .meta({ placeholder: 'COUNT' }),
  keepDiff: z
    .string()
    .optional()
    .describe('archive to write all changes into, a layer of a container image; gzipped if it ends in gz')
    .meta({ placeholder: 'FILE' }),
  commit: z
    .string()
    .min(1)
    .optional()
    .describe(
      'OCI layout, or docker://HOST/NAME:TAG, to write an image to: that of --image, if any, with the changes',
    )
    .meta({ placeholder: 'DIR[:TAG]' }),
});

function unitOf(text: string): string {
  return /[kmgt]$/i.exec(text)?.[0].toLowerCase() ?? ' ';
}

const FLAGS = describeOptions(sandboxSchema);

/** Commands for sandboxes that run on, as the first word after `sandbox`. */
const OTHERS = new Set(
  'run ps exec fork diff merge watch read write list publish export commit rm'.split(' ').concat(HOLD),
);

/**
 * `sandbox`: runs a command in a throw-away guest that has this host's file system, and changes
 * nothing on it. `sandbox run` is the same, and can leave the guest to the commands beside it.
 * @param argv the program's words, which tell the two apart.
 */
export function addSandbox(program: Command, argv: readonly string[]): void {
  const sandbox = program
    .command('sandbox')
    .description("run a command on this host's file system in a throw-away guest: it changes nothing here");
  if (!OTHERS.has(argv[1] ?? '')) return addRun(sandbox);
  sandbox.enablePositionalOptions().usage('COMMAND');
  const run = sandbox.command('run').description('run a command, or with --detach leave a sandbox running');
  addRun(run);
  addSandboxCommands(sandbox);
  for (const command of sandbox.commands) command.copyInheritedSettings(program);
}

function addRun(command: Command): void {
  command
    .argument('[COMMAND...]', 'program and arguments; without it, a shell')
    .passThroughOptions()
    .optionsGroup('Sandbox:')
    .option('-t, --tty', 'give the command a terminal; default: only a shell has one')
    .option('-d, --detach', 'leave it running without a command, until sandbox rm; needs a name')
    .option('--name <NAME>', 'its name for sandbox exec and the like')
    .option('--isolate', 'with --detach: in a process of its own, not in that of the others');
  for (const option of FLAGS) addFlag(command, option);
  addLogOptions(command, 'error');
  command.addHelpText('after', EXAMPLES).action(runSandbox);
}

async function runSandbox(words: readonly string[], values: Values): Promise<void> {
  const { keepDiff, commit, ...given } = check(
    sandboxSchema,
    givenOptions(FLAGS, values),
    '',
    ([name]) => `--${FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`,
  );
  const detached = detachedName(words, values, [keepDiff, commit]);
  const options = startOptionsOf(given, logConfigOf(values, { level: 'error' }));
  if (detached !== undefined) return startDetached(detached, options, values['isolate'] === true);
  const { publish, console: hasConsole, log, ...rest } = options;
  const { stdin, stdout, stderr } = process;
  const hasTerminal = wantsTerminal(words, values);
  const stop = stopSignal();
  const gone = new AbortController();
  // The reader of the output has closed it, as `head` does.
  stdout.on('error', () => gone.abort(new Stopped(141)));
  try {
    const booting = new AbortController();
    const abort = (): void => booting.abort(stop.reason);
    stop.addEventListener('abort', abort, { once: true });
    await using box = await Sandbox.start({
      ...rest,
      console: hasConsole ? stderr : undefined,
      signal: AbortSignal.any([booting.signal, gone.signal]),
      log: createLogger(log),
    });
    for (const { port, hostPort } of publish) await publishPort(box, port, hostPort);
    stop.removeEventListener('abort', abort);
    const wanted = box.command(words.length === 0 ? undefined : words);
    const command = await box.spawn(wanted.length === 0 ? ['sh'] : wanted, {
      stdin,
      tty: hasTerminal ? terminalSize() : undefined,
    });
    process.exitCode = await attended(stop, hasTerminal, {
      kill: (signal) => command.kill(signal),
      resize: (size) => command.resize(size),
      run: async () => {
        const outputs = [copied(command.stdout, stdout), copied(command.stderr, stderr)];
        const code = await command.exitCode;
        await Promise.all(outputs);
        return code;
      },
    });
    if (keepDiff !== undefined) await box.export(keepDiff);
    if (commit !== undefined) await box.commit(...placeAndTag(commit));
  } catch (error) {
    if (error instanceof Stopped) process.exitCode = error.exitCode;
    else if (error instanceof DOMException && error.name === 'TimeoutError') {
      stderr.write('virtiofs-kit: --timeout: time is up, the guest was ended\n');
      process.exitCode = TIMED_OUT;
    } else throw error;
  } finally {
    stdin.destroy();
  }
}

/** What a command line asks for. @throws UsageError for what cannot be. */
function startOptionsOf(
  {
    share,
    mount,
    env,
    redirect,
    allow,
    allowInternal,
    header,
    publish,
    cwd,
    root,
    image,
    kernel,
    qemu,
    audit,
    ...rest
  }: Omit<z.output<typeof sandboxSchema>, 'keepDiff' | 'commit'>,
  log: LogConfig,
): StartOptions {
  const hasNetwork = allow.length + header.length > 0;
  return {
    ...rest,
    root: root === undefined ? undefined : resolve(root),
    image: image === undefined || referenceOf(image) !== undefined ? image : resolve(image),
    kernel: kernel === undefined ? undefined : resolve(kernel),
    audit: audit === undefined ? undefined : resolve(audit),
    qemu: qemu?.includes('/') === true ? resolve(qemu) : qemu,
    hideSecrets: image === undefined && rest.hideSecrets,
    mounts: Object.fromEntries([...share.map(sharedDirectory), ...mount.map(mountedBackend)]),
    redirect: Object.fromEntries(redirect.map((text) => text.split(/:(.*)/s).slice(0, 2))),
    network: hasNetwork ? { allow, internal: allowInternal, headers: secretsOf(header) } : undefined,
    env: Object.fromEntries(env.flatMap(variable)),
    cwd: cwd ?? ((image ?? root) === undefined ? process.cwd() : undefined),
    publish: publish.map(portsOf),
    log,
  };
}

/** Reads `--header`. @throws UsageError for a variable that is not set. */
function secretsOf(texts: readonly string[]): Record<string, Record<string, string>> {
  const headers: Record<string, Record<string, string>> = {};
  for (const text of texts) {
    const [, url = '', name = '', variableName = ''] = /^(\S+) ([\w-]+)=(\w+)$/.exec(text) ?? [];
    const value = process.env[variableName];
    if (value === undefined) throw new UsageError(`--header ${text}: ${variableName} is not set`);
    headers[url] = { ...headers[url], [name]: value };
  }
  return headers;
}

/** @throws UsageError for what a sandbox that runs on cannot have. */
function detachedName(
  words: readonly string[],
  { detach, name, tty, isolate }: Values,
  atEnd: readonly (string | undefined)[],
): string | undefined {
  if (detach !== true) {
    if (name !== undefined) throw new UsageError('--name: only with --detach');
    if (isolate === true)
      throw new UsageError('--isolate: only with --detach: this one has a process already');
    return undefined;
  }
  if (typeof name !== 'string') throw new UsageError('--detach: needs --name NAME');
  if (words.length > 0 || tty === true) throw new UsageError('--detach: runs no command: use sandbox exec');
  if (atEnd.some((path) => path !== undefined))
    throw new UsageError('--detach: use sandbox export and sandbox commit');
  return checkName(name);
}

/** Copies to one of this process's outputs, which stays open. */
async function copied(from: NodeJS.ReadableStream, to: NodeJS.WriteStream): Promise<void> {
  for await (const part of from as AsyncIterable<Buffer>) await show(to, part);
}

type StartMount = StartOptions['mounts'][string];

/** Reads the value of `--share`. */
function sharedDirectory(text: string): [string, StartMount] {
  const readOnly = text.endsWith(':ro');
  const source = resolve(readOnly ? text.slice(0, -':ro'.length) : text);
  if (source === '/') throw new UsageError(`--share ${text}: must be a directory, and not /`);
  return [source, { source, readOnly }];
}

/** Reads the value of `--mount`. */
function mountedBackend(text: string): [string, StartMount] {
  const at = text.indexOf('=');
  let source: unknown;
  try {
    source = JSON.parse(text.slice(at + 1));
  } catch (error) {
    throw new UsageError(`--mount ${text}: no JSON: ${(error as Error).message}`, { cause: error });
  }
  const backend = z.looseObject({ type: z.string() }).safeParse(source);
  if (!backend.success) throw new UsageError(`--mount ${text}: needs the backend's "type"`);
  return [text.slice(0, at), { source: backend.data }];
}

const EXAMPLES = `
Examples:
  virtiofs-kit sandbox -- sh -c 'rm -rf /usr/share/doc; ls /usr/share | wc -l'
  virtiofs-kit sandbox --keep-diff changes.tar.gz -- make install
  virtiofs-kit sandbox --image ./debian-layout:stable -- apt-get --version
  virtiofs-kit sandbox run --detach --name box; virtiofs-kit sandbox exec box make; virtiofs-kit sandbox rm box
  virtiofs-kit sandbox --share . --share ~/data:ro --user nobody -- ./untrusted-script

The command sees this host's programs and files, but for the secrets of home directories; what it changes is kept in
memory and thrown away. It has no network but what --allow names. Its exit code is ours. The first Ctrl-C is for the
command, the second one ends it. Needs QEMU and the like: see virtiofs-kit guest --help.

Of sandboxes that run on: virtiofs-kit sandbox ps | exec NAME COMMAND | fork NAME [COUNT] | diff NAME | merge NAME FORK |
watch NAME [PATH] | read NAME PATH | write NAME PATH | list NAME [PATH] | publish NAME PORT[:PORT] | export NAME FILE |
commit NAME DIR[:TAG] | rm NAME… A program of such a name comes after --.

--accelerator uml starts in a second or two without KVM: for your own code, not for code that you don't trust, since
User-Mode Linux is a process of this host like any other.
`;
