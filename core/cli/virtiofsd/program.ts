import type { Command } from 'commander';
import type { BackendSpec } from '../../backend/index.js';
import type { Confinement } from '../../plugins/confine.js';
import { LAYERS, parseCapabilities } from '../../plugins/options/confinement-options.js';
import type { ServedExport } from '../../plugins/index.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import { logConfigOf } from '../serving/log-and-services.js';
import { start } from '../serving/start.js';
import { CAPABILITIES, parseVirtiofsd, VIRTIOFSD_HELP, type VirtiofsdRequest } from './options.js';

/** `virtiofsd`: serves a directory with virtiofsd's own command line, in virtiofsd's place. */
export function addVirtiofsd(program: Command, registry: BackendRegistry): void {
  const command = program.command('virtiofsd');
  // Its options are not declared to commander, so the help text comes from here.
  command.helpInformation = () => VIRTIOFSD_HELP;
  command
    .description("serve a directory with virtiofsd's command line, for libvirt and Kata")
    .argument('[words...]', "virtiofsd's options")
    .allowUnknownOption()
    .passThroughOptions()
    .action((words: readonly string[]) => virtiofsd(words, registry));
}

async function virtiofsd(words: readonly string[], registry: BackendRegistry): Promise<void> {
  const request = parseVirtiofsd(words);
  if (request.action === 'capabilities') {
    process.stdout.write(`${JSON.stringify(CAPABILITIES, undefined, 2)}\n`);
  } else if (request.action !== 'serve') {
    process.stdout.write(request.action === 'help' ? VIRTIOFSD_HELP : 'virtiofsd (virtiofs-kit)\n');
  } else await serve(request, registry);
}

async function serve(request: VirtiofsdRequest, registry: BackendRegistry): Promise<void> {
  const logConfig = logConfigOf({ logLevel: request.logLevel }, {});
  const backend: BackendSpec = { ...request.backend, type: 'passthrough' };
  const served = { ...request.settings, cache: request.cache, backend } as unknown as ServedExport;
  const plan = {
    options: { exports: [served] },
    logConfig,
    notifies: false,
    ignored: request.ignored,
    // Kata Containers' runtime in Rust reads until a line has this text.
    ready: 'Waiting for vhost-user socket connection...',
  };
  await start(plan, confinement(request), registry);
}

function confinement({ sandbox, seccomp, modcaps }: VirtiofsdRequest): Confinement {
  const left = new Set<string>([
    ...(sandbox === 'namespace' ? [] : ['mounts', 'network']),
    ...(sandbox === 'none' ? ['landlock'] : []),
    ...(seccomp === 'none' ? ['seccomp'] : []),
  ]);
  return {
    layers: LAYERS.filter((layer) => !left.has(layer)),
    // Its command line has no word for it.
    missingLayers: 'warn',
    seccompAction: seccomp === 'none' ? 'errno' : seccomp,
    capabilities: modcaps === undefined ? [] : parseCapabilities(modcaps),
    reads: [],
  };
}
