import { createServer, request as httpRequest } from 'node:http';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

/** An HTTP proxy on loopback: it passes requests on, and makes tunnels. */
export class HttpProxy {
  readonly url: string;
  /** Requests that were passed on, by method and URL, and targets of tunnels. */
  readonly passed: string[] = [];
  /** What clients must send to pass; undefined: anything. */
  authorization: string | undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const isRefused = (given: string | undefined): boolean =>
      this.authorization !== undefined && given !== this.authorization;
    server.on('request', (request, response) => {
      const { method = 'GET', url = '', headers } = request;
      if (isRefused(headers['proxy-authorization'])) return response.writeHead(407).end();
      this.passed.push(`${method} ${url}`);
      const onward = httpRequest(url, { method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      return request.pipe(onward);
    });
    server.on('connect', ({ url = '', headers }, socket: Socket, head: Buffer) => {
      if (isRefused(headers['proxy-authorization'])) return socket.end('HTTP/1.1 407 Refused\r\n\r\n');
      this.passed.push(`CONNECT ${url}`);
      const [host, port] = url.split(':');
      const onward = connect(Number(port), host, () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n');
        onward.write(head);
        socket.pipe(onward).pipe(socket);
      });
      for (const [one, other] of [
        [socket, onward],
        [onward, socket],
      ] as const) {
        this.#sockets.add(one);
        one.on('error', () => other.destroy());
      }
      return onward;
    });
  }

  static async start(): Promise<HttpProxy> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new HttpProxy(server);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
