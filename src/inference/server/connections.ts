/** What Fastify leaves to Node's own server: requests that stay halves, and bodies that nobody reads any more. */

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

const DRAIN_SECONDS = 5;

/** Lets the rest of a body come in, unread and not for long: a client that was refused while it sends would otherwise see
 * its connection break instead of the answer. */
export function drain(request: IncomingMessage): void {
  if (request.complete || request.destroyed) return;
  request.unpipe();
  request.resume();
  const overdue = setTimeout(() => request.socket.destroy(), DRAIN_SECONDS * 1000);
  for (const end of ['end', 'close'] as const) request.once(end, () => clearTimeout(overdue));
}

/** Keeps an eye on the connections of a server; returns what ends all but those that wait for an answer. */
export function watchConnections(server: Server): () => void {
  const open = new Map<Socket, { request: IncomingMessage; response: ServerResponse } | null>();
  server.on('connection', (socket: Socket) => {
    open.set(socket, null);
    socket.once('close', () => open.delete(socket));
  });
  server.on('request', (request, response) => open.set(request.socket, { request, response }));
  return () => {
    for (const [socket, last] of open) {
      if (last?.request.complete !== true || last.response.writableFinished) socket.destroy();
    }
  };
}

/** Answers what is no request that Fastify could see: `status`, and a body of JSON. */
export function answerRaw(socket: Socket, status: number, body: object): void {
  const text = JSON.stringify(body);
  const head = [
    `HTTP/1.1 ${status} ${status === 408 ? 'Request Timeout' : 'Bad Request'}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(text)}`,
    'connection: close',
  ];
  if (socket.writable) socket.end(`${head.join('\r\n')}\r\n\r\n${text}`);
  socket.destroySoon();
}
