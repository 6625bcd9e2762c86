/**
 * Control sockets: how a command on the command line reaches the process that serves. A client
 * (`client.ts`) writes one line of JSON, which names a command and its options, and the process
 * (`command-socket.ts`) answers with one line: what to show, or an error (`messages.ts`). The
 * daemon listens on one (`serve --control`), and so does each mount of a bucket, in its cache
 * folder.
 */
export { CommandSocket, isPathTaken, type Reply } from './command-socket.js';
export { askSocket } from './client.js';
export type { CommandRequest } from './messages.js';
