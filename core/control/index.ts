/**
 * Control sockets: how a command on the command line reaches the process that serves. A client
 * writes one line of JSON, which names a command and its options, and the process answers with one
 * line: what to show, or an error. The daemon listens on one (`serve --control`), and so does each
 * mount of a bucket, in its cache folder.
 */
export { CommandSocket, type Reply } from './command-socket.js';
export { askSocket } from './client.js';
export type { CommandRequest } from './messages.js';
