/** A daemon that echoes, to be killed: `node echo-child.js SOCKET`. */
import { VhostUserServer } from '../../../core/vhost-user/index.js';
import { EchoSession } from '../../support/echo-session.js';

const log = { debug() {}, info() {}, warn: console.error, error: console.error };
VhostUserServer.start({
  socket: { path: process.argv[2]! },
  tag: 'echo',
  requestQueues: 2,
  log,
  openSession: () => new EchoSession(),
});
process.send!('ready');
