/** The server's addresses: who may ask, what is taken, and what is answered. */

import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import multipart from '@fastify/multipart';
import swagger from '@fastify/swagger';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { stampEvent } from '../../base/events/event.ts';
import type { Video } from '../prediction/videos.ts';
import { refuseStrangers } from './access.ts';
import { answerRaw, drain, watchConnections } from './connections.ts';
import { ABOUT, type Also, fieldsSchema, namedSchema, ROUTES } from './documents.ts';
import { Line, type Together } from './line.ts';
import { Metrics } from './metrics.ts';
import { findNamed } from './named.ts';
import { type Asked, type Class, type Missing, makeAttention, makePredict, makeTimeline } from './predictions.ts';
import { asRefusal, describeRefusal, Refusal, read } from './refusal.ts';
import { receive } from './uploads.ts';
import type { Worker } from './worker.ts';

const MAX_JSON_BYTES = 64 * 1024;
const MAX_HEADER_SECONDS = 20;
const RETRY_SECONDS = '1';

export interface Serving {
  token: string | null;
  /** Real path of the folder below which videos may be named. */
  root: string;
  /** For uploads. */
  folder: string;
  worker: Worker;
  /** How many videos are looked at together. */
  numTogether: number;
  limits: { maxBytes: number; maxDuration: number; seconds: number; maxInHand: number };
  /** How many classes are named where the request does not say. */
  top: number;
  /** The HTML at /. */
  page: string;
  /** Of every request, once it is answered. */
  onAnswer: (answer: Answer) => void;
  onBug: (error: unknown) => void;
}

export interface Answer {
  method: string;
  route: string;
  status: number;
  seconds: number;
  /** The video, as the client named it. */
  path: string | null;
  error: string | null;
}

declare module 'fastify' {
  interface FastifyRequest {
    noted: { begin: number; path: string | null; error: string | null };
  }
}

type AskedMore = Asked & { also: Set<Also> };

export class App {
  readonly server: FastifyInstance;
  readonly #serving: Serving;
  readonly #line: Line;
  readonly #predictTogether: Together<Asked, Class[]>;
  readonly #metrics: Metrics;
  readonly #inHand = new Set<FastifyRequest>();
  readonly #cutHalves: () => void;
  #isStopping = false;

  private constructor(serving: Serving) {
    this.#serving = serving;
    const { worker, numTogether, onBug } = serving;
    const { seconds, maxDuration } = serving.limits;
    this.#predictTogether = makePredict(maxDuration);
    this.#line = new Line({
      ...{ worker, most: numTogether, seconds, onBug },
      onCall: (numJobs, callSeconds) => this.#metrics.observeCall(numJobs, callSeconds),
    });
    this.#metrics = new Metrics(() => ({
      ...{ inHand: this.numInHand, waiting: this.#line.numWaiting },
      ...{ isReady: worker.isReady, restarts: worker.numRestarts },
    }));
    this.server = fastify({
      bodyLimit: MAX_JSON_BYTES,
      // Node itself ends requests that stay halves.
      requestTimeout: seconds * 1000,
      http: { headersTimeout: Math.min(MAX_HEADER_SECONDS, seconds) * 1000, connectionsCheckingInterval: 1000 },
      clientErrorHandler: (error, socket) => this.#refuseRaw(error, socket),
    });
    this.#cutHalves = watchConnections(this.server.server);
  }

  static async make(serving: Serving): Promise<App> {
    const app = new App(serving);
    await app.server.register(multipart, { throwFileSizeLimit: false });
    await app.server.register(swagger, ABOUT);
    app.server.removeContentTypeParser('text/plain');
    app.#addHooks();
    app.#addRoutes();
    await app.server.ready();
    return app;
  }

  /** Requests to look at videos. */
  get numInHand(): number {
    return this.#inHand.size;
  }

  get port(): number {
    return (this.server.server.address() as AddressInfo).port;
  }

  /** Takes no more requests, and answers those in hand; of what has not come in whole by then nothing is waited for. */
  async stop(graceSeconds: number): Promise<void> {
    this.#isStopping = true;
    const { seconds } = this.#serving.limits;
    const cut = setTimeout(this.#cutHalves, graceSeconds * 1000);
    const end = setTimeout(() => this.server.server.closeAllConnections(), (seconds + graceSeconds) * 1000);
    await this.server.close();
    for (const timer of [cut, end]) clearTimeout(timer);
  }

  #addHooks(): void {
    const { server } = this;
    // Schemas are for the document alone: what comes is read by zod, and what goes is written as it is.
    server.setValidatorCompiler(() => () => true);
    server.setSerializerCompiler(() => (value) => JSON.stringify(value));
    server.decorateRequest('noted');
    server.addHook('onRequest', async (request) => {
      request.noted = { begin: performance.now(), path: null, error: null };
      refuseStrangers(request, this.#serving.token);
    });
    server.addHook('onSend', async (request, reply) => {
      reply.headers({ 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
      drain(request.raw);
    });
    server.addHook('onResponse', async (request, reply) => this.#tell(request, reply));
    server.setErrorHandler((error, request, reply) => {
      const refusal = asRefusal(error);
      if (refusal.cause !== undefined) this.#serving.onBug(refusal.cause);
      return this.#refuse(refusal, request, reply);
    });
    server.setNotFoundHandler(async (request) => {
      const what = `${request.method} ${request.url.split('?')[0]}`;
      throw new Refusal('not_found', `There is no ${what}. /openapi.json tells what there is.`);
    });
  }

  #addRoutes(): void {
    const { server } = this;
    const { worker, page } = this.#serving;
    server.post('/predict', { schema: ROUTES.predict }, (request, reply) => this.#predict(request, reply));
    server.get('/healthz', { schema: ROUTES.health }, async (_, reply) => {
      const { step, numRestarts: restarts } = worker;
      const status = this.#isStopping ? 'stopping' : worker.isReady ? 'ok' : 'starting';
      reply.code(status === 'ok' ? 200 : 503);
      return { status, step, in_hand: this.numInHand, waiting: this.#line.numWaiting, restarts };
    });
    server.get('/metrics', { schema: ROUTES.metrics }, async (_, reply) => {
      reply.type(this.#metrics.contentType);
      return this.#metrics.show();
    });
    server.get('/openapi.json', { schema: { hide: true } }, async () => server.swagger());
    server.get('/', { schema: { hide: true } }, async (_, reply) => reply.type('text/html; charset=utf-8').send(page));
  }

  /** Does what a request asks of a video, where there is room for one more. */
  async #predict(request: FastifyRequest, reply: FastifyReply): Promise<object> {
    const { limits } = this.#serving;
    if (this.#isStopping) throw new Refusal('stopping', 'The server is being stopped.');
    if (this.numInHand >= limits.maxInHand) {
      reply.header('retry-after', RETRY_SECONDS);
      throw new Refusal('too_many', `${limits.maxInHand} requests are in hand already. Try again later.`);
    }
    this.#inHand.add(request);
    try {
      const left = new AbortController();
      reply.raw.once('close', () => left.abort());
      return await this.#withVideo(request, (asked) => this.#look(asked, left.signal));
    } finally {
      this.#inHand.delete(request);
    }
  }

  async #look({ also, ...asked }: AskedMore, left: AbortSignal): Promise<object> {
    const { folder, limits } = this.#serving;
    const classes = await this.#line.ask(this.#predictTogether, asked, left);
    const more: Record<string, unknown> = {};
    const see = async <T>(work: Together<Video, T | Missing>, how = {}): Promise<T | Missing> => {
      try {
        return await this.#line.ask(work, asked.video, left, how);
      } catch (error) {
        if (!(error instanceof Refusal) || left.aborted) throw error;
        return { error: error.message }; // the classes are known, and are told
      }
    };
    if (also.has('timeline')) more.timeline = await see(makeTimeline(limits.seconds, left), { isLong: true });
    if (also.has('attention')) more.attention = await see(makeAttention(join(folder, `${randomUUID()}.png`)));
    return { ...stampEvent({ kind: 'predicted', path: asked.video.name, classes }), ...more };
  }

  async #withVideo<T>(request: FastifyRequest, work: (asked: AskedMore) => Promise<T>): Promise<T> {
    const { folder, limits, root, top } = this.#serving;
    if (!request.isMultipart()) {
      const named = read(namedSchema, request.body);
      request.noted.path = named.path;
      return work({ video: findNamed(named.path, root), top: named.top ?? top, also: named.also });
    }
    const upload = await receive(request, folder, limits.maxBytes);
    request.noted.path = upload.name;
    try {
      const fields = read(fieldsSchema, upload.fields);
      const video = { name: upload.name, path: upload.file, part: null, isStream: false };
      return await work({ video, top: fields.top ?? top, also: fields.also });
    } finally {
      await rm(upload.file, { force: true });
    }
  }

  /** Of what never became a request: a half that nothing more came of, or no HTTP. */
  #refuseRaw(error: NodeJS.ErrnoException, socket: Socket): void {
    if (error.code === 'ECONNRESET' || socket.destroyed) return;
    const isLate = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
    const { seconds } = this.#serving.limits;
    const refusal = isLate
      ? new Refusal('too_slow', `The request was not there within ${seconds} s.`)
      : new Refusal('not_understood', `This is no request of HTTP that can be read: ${error.code ?? error.message}.`);
    const route = 'none';
    this.#metrics.requests.inc({ route, status: refusal.status });
    this.#serving.onAnswer({ method: '-', route, status: refusal.status, seconds, path: null, error: refusal.message });
    answerRaw(socket, refusal.status, describeRefusal(refusal));
  }

  #refuse(refusal: Refusal, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    request.noted.error = refusal.message;
    request.noted.path ??= refusal.path;
    return reply.code(refusal.status).send(describeRefusal(refusal));
  }

  #tell(request: FastifyRequest, reply: FastifyReply): void {
    const { begin, path, error } = request.noted;
    const route = request.routeOptions.url ?? 'none';
    const seconds = (performance.now() - begin) / 1000;
    this.#metrics.requests.inc({ route, status: reply.statusCode });
    this.#metrics.seconds.observe({ route }, seconds);
    this.#serving.onAnswer({ method: request.method, route, status: reply.statusCode, seconds, path, error });
  }
}
