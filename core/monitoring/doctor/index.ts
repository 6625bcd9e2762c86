/**
 * What is wrong, in plain words, and what to do: with a host (`host.ts`), with sockets and folders
 * (`places.ts`), with a daemon (`daemon.ts`). `finding.ts`: what a look finds.
 */
export { judgeDaemon } from './daemon.js';
export { findingLines, type Finding } from './finding.js';
export { hostFacts, judgeHost, type HostFacts } from './host.js';
export { judgeFolders, judgeSockets } from './places.js';
