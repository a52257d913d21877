/** The server without the model behind it: who may ask, what is refused and how, what is left of uploads. */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, request } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, describe, expect, test } from '@jest/globals';
import { chooseToken } from '../src/inference/server/access.ts';
import { type Answer, App, type Serving } from '../src/inference/server/app.ts';
import { watchConnections } from '../src/inference/server/connections.ts';
import { REFUSALS } from '../src/inference/server/refusal.ts';
import { makeUploadFolder } from '../src/inference/server/uploads.ts';
import { Worker } from '../src/inference/server/worker.ts';
import { problemsOf, until } from './support.ts';

const ROOT = realpathSync(mkdtempSync(join(tmpdir(), 'serve-test-')));
const [root, outside] = [join(ROOT, 'videos'), join(ROOT, 'outside')];
mkdirSync(root);
mkdirSync(outside);
writeFileSync(join(outside, 'secret.mp4'), 'x');
symlinkSync(outside, join(root, 'link'));
mkdirSync(join(root, 'folder'));
writeFileSync(join(root, 'a.mp4'), 'x');

const started: App[] = [];
const sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const app of started.splice(0)) await app.stop(0);
});
afterAll(() => rmSync(ROOT, { recursive: true }));

interface Made {
  app: App;
  folder: string;
  answers: Answer[];
}

/** A server whose worker is not started: what reaches the line waits there. */
async function make(limits: Partial<Serving['limits']> = {}, token: string | null = null): Promise<Made> {
  const folder = mkdtempSync(join(ROOT, 'uploads-'));
  const about = { mode: 'predict' as const, trials: [], lists: { train: null, val: null }, classes: null };
  const worker = new Worker({
    ...{ request: { ...about, run_dir: null, resume: 'never' }, stallSeconds: 60, logFile: join(folder, 'log') },
    onDeath: () => {},
  });
  const answers: Answer[] = [];
  const app = await App.make({
    ...{ worker, token, root, folder, top: 5, page: '<!doctype html>', numTogether: 4 },
    limits: { maxBytes: 10_000, maxDuration: 10, seconds: 60, maxInHand: 2, ...limits },
    onAnswer: (answer) => answers.push(answer),
    onBug: (error) => {
      throw error;
    },
  });
  started.push(app);
  return { app, folder, answers };
}

const BOUNDARY = 'boundary';
const partOf = (name: string, text: string, file = ''): string =>
  `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"${file && `; filename="${file}"`}\r\n\r\n${text}\r\n`;
const formOf = (...parts: string[]): { payload: string; headers: Record<string, string> } => ({
  payload: `${parts.join('')}--${BOUNDARY}--\r\n`,
  headers: { 'content-type': `multipart/form-data; boundary=${BOUNDARY}` },
});

interface Asking {
  method?: string;
  headers?: Record<string, string>;
  payload?: string;
}

async function ask({ app }: Made, url: string, { method = 'GET', headers = {}, payload }: Asking = {}) {
  if (!app.server.server.listening) await app.server.listen({ host: '127.0.0.1', port: 0 });
  const port = app.port;
  const response = await new Promise<IncomingMessage>((settle, fail) => {
    const sent = request(
      { port, host: '127.0.0.1', path: url, method, headers: { host: 'localhost', ...headers } },
      settle,
    );
    sent.on('error', fail);
    if (payload !== undefined && headers['transfer-encoding'] === undefined)
      sent.setHeader('content-length', payload.length);
    sent.end(payload);
  });
  return { status: response.statusCode, headers: response.headers, text: await text(response) };
}

const post = async (made: Made, given: Asking) => {
  const { text: said, ...rest } = await ask(made, '/predict', { method: 'POST', ...given });
  return { ...rest, body: JSON.parse(said) };
};
const named = (body: unknown): Asking & { headers: object } => ({
  payload: typeof body === 'string' ? body : JSON.stringify(body),
  headers: { 'content-type': 'application/json' },
});

/** A request that comes in part: the head, and what is given of the body. */
async function half({ app }: Made, body: string, length = 5000): Promise<{ said: () => string; socket: Socket }> {
  if (!app.server.server.listening) await app.server.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect(app.port, '127.0.0.1');
  sockets.push(socket);
  let said = '';
  socket.on('data', (data) => {
    said += data;
  });
  socket.on('error', () => {});
  const type = `multipart/form-data; boundary=${BOUNDARY}`;
  socket.write(
    `POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: ${type}\r\ncontent-length: ${length}\r\n\r\n${body}`,
  );
  return { said: () => said, socket };
}

const unmeasured = (given: Asking): Asking => ({
  ...given,
  headers: { ...given.headers, 'transfer-encoding': 'chunked' },
});

describe('what cannot be answered is refused in words', () => {
  test.each([
    ['not_found', 'a path that is not there', named({ path: 'b.mp4' }), /does not exist/],
    ['not_allowed', 'one outside', named({ path: join(outside, 'secret.mp4') }), /not below the folder/],
    ['not_allowed', 'one that climbs out, there or not', named({ path: '../nothing.mp4' }), /not below the folder/],
    ['not_allowed', 'a link that leads out', named({ path: 'link/secret.mp4' }), /not below the folder/],
    ['bad_video', 'a folder', named({ path: 'folder' }), /is a folder/],
    ['not_understood', 'a part that ends before it begins', named({ path: 'a.mp4#t=3,2' }), /PATH#t=START,END/],
    ['not_understood', 'JSON that says nothing', named({}), /path: /],
    ['not_understood', 'JSON that says too much', named({ path: 'a.mp4', topp: 1, top: 0 }), /top: .*topp/],
    ['not_understood', 'what is no JSON', named('{'), /JSON/],
    ['too_large', 'JSON without end', named(`{"path":"${'a'.repeat(70_000)}"}`), /larger/],
    ['not_accepted', 'another type', { payload: 'a=1', headers: { 'content-type': 'text/plain' } }, /form .* or JSON/],
    ['not_understood', 'no video', formOf(partOf('top', '3')), /no file in the field `video`/],
    ['not_understood', 'another field', formOf(partOf('clip', 'x', 'a.mp4')), /one file, in the field `video`/],
    ['not_understood', 'two videos', formOf(partOf('video', 'x', 'a'), partOf('video', 'x', 'b')), /one file/],
    ['not_understood', 'a field with a typo', formOf(partOf('video', 'x', 'a'), partOf('tpo', '3')), /tpo/],
    ['not_understood', 'a top that is no number', formOf(partOf('top', 'all'), partOf('video', 'x', 'a')), /top: /],
    ['too_large', 'a video by its length', formOf(partOf('video', 'x'.repeat(90_000), 'a')), /larger than the 9.8 KiB/],
    [
      'too_large',
      'one whose length is not told',
      unmeasured(formOf(partOf('video', 'x'.repeat(11_000), 'a'))),
      /larger/,
    ],
    [
      'torn',
      'a form that ends early',
      { ...formOf(), payload: partOf('video', 'x', 'a').slice(0, -2) },
      /ended before its end/,
    ],
  ] as const)('%s: %s', async (code, _, given, message) => {
    const made = await make();
    const { status, body, headers } = await post(made, given);
    expect([status, body.code]).toEqual([REFUSALS[code].status, code]);
    expect(body.error).toMatch(message);
    expect(headers['content-type']).toBe('application/json; charset=utf-8');
    expect(readdirSync(made.folder)).toEqual([]);
    expect(made.answers).toMatchObject([{ route: '/predict', status, error: body.error }]);
  });

  test('an address that is not there', async () => {
    const made = await make();
    const { status, text: said } = await ask(made, '/nowhere?a=1');
    expect(status).toBe(404);
    expect(JSON.parse(said)).toEqual({
      error: expect.stringMatching(/^There is no GET \/nowhere\./),
      code: 'not_found',
    });
  });
});

describe('limits', () => {
  test('an upload that stays a half is ended, its file removed; so is a head without end', async () => {
    const made = await make({ seconds: 1 });
    const { said } = await half(made, partOf('video', 'the first bytes', 'a.mp4').slice(0, -4));
    const head = connect(made.app.port, '127.0.0.1');
    sockets.push(head);
    let saidOfHead = '';
    head.on('data', (data) => {
      saidOfHead += data;
    });
    head.write('POST /predict HTTP/1.1\r\nhost: local');
    await until(() => readdirSync(made.folder).length === 1, 60);
    await until(() => /too_slow"}$/.test(said()) && /too_slow"}$/.test(saidOfHead), 60);
    for (const text of [said(), saidOfHead])
      expect(text).toMatch(/^HTTP\/1\.1 408 [\s\S]*"The request was not there within 1 s\."/);
    await until(() => readdirSync(made.folder).length === 0, 60);
    expect(made.app.numInHand).toBe(0);
  });

  test('an answer that does not come is not waited for', async () => {
    const made = await make({ seconds: 1 });
    const { status, body } = await post(made, named({ path: 'a.mp4' }));
    expect([status, body.code]).toEqual([408, 'too_slow']);
    expect(JSON.parse((await ask(made, '/healthz')).text)).toMatchObject({
      status: 'starting',
      in_hand: 0,
      waiting: 0,
    });
  });

  test('more requests than are allowed are told to come again, also while others are still coming in', async () => {
    const made = await make({ maxInHand: 2 });
    const halves = [await half(made, 'x'), await half(made, 'x')];
    await until(() => made.app.numInHand === 2, 60);
    const { status, body, headers } = await post(made, named({ path: 'a.mp4' }));
    expect([status, body.code, headers['retry-after']]).toEqual([429, 'too_many', '1']);
    for (const { socket } of halves) socket.destroy();
    await until(() => made.app.numInHand === 0, 60);
  });

  test('who leaves is not waited for: nothing of the upload stays, nor of the work', async () => {
    const made = await make();
    const body = formOf(partOf('video', 'x', 'a.mp4')).payload;
    const whole = await half(made, body, body.length);
    const torn = await half(made, partOf('video', 'x'.repeat(3000), 'b.mp4'));
    await until(() => readdirSync(made.folder).length === 2 && made.app.numInHand === 2, 60);
    whole.socket.destroy();
    torn.socket.destroy();
    await until(() => made.app.numInHand === 0 && readdirSync(made.folder).length === 0, 60);
    expect(JSON.parse((await ask(made, '/healthz')).text).waiting).toBe(0);
  });

  test('a stop answers no half: their connections end, and nothing is left', async () => {
    const made = await make();
    const { socket } = await half(made, partOf('video', 'x'.repeat(3000), 'b.mp4'));
    const silent = connect(made.app.port, '127.0.0.1');
    sockets.push(silent);
    const closed = [socket, silent].map((one) => new Promise((settle) => one.once('close', settle)));
    await until(() => made.app.numInHand === 1, 60);
    await made.app.stop(0);
    await Promise.all(closed);
    await until(() => readdirSync(made.folder).length === 0, 60);
  });
});

test('what is cut is halves and silence, and not who waits for an answer', async () => {
  const [waiting, numBefore]: [string[], number] = [[], sockets.length];
  const server = createServer(({ url = '' }) => waiting.push(url));
  const cut = watchConnections(server);
  const theirs: Socket[] = [];
  server.on('connection', (socket) => theirs.push(socket));
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  for (const text of ['GET /whole HTTP/1.1', 'POST /half HTTP/1.1\r\ncontent-length: 9', '']) {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    socket.write(text === '' ? '' : `${text}\r\nhost: localhost\r\n\r\n`);
    sockets.push(socket.on('error', () => {}));
    await until(() => theirs.length === sockets.length - numBefore, 60);
  }
  await until(() => waiting.length === 2, 60);
  cut();
  const areCut = theirs.map(({ destroyed }) => destroyed);
  server.closeAllConnections();
  server.close();
  expect(areCut).toEqual([false, true, true]);
});

describe('who may ask', () => {
  const TOKEN = 'a-token-of-some-length';

  test.each([
    ['its name', { host: 'localhost:8000' }, 404],
    ['its address', { host: '127.0.0.1:8000' }, 404],
    ['its other address', { host: '[::1]:8000' }, 404],
    ['a name that somebody points here', { host: 'evil.example:8000' }, 403],
    ['its own page', { host: 'localhost:8000', origin: 'http://localhost:8000' }, 404],
    ['the page of somebody else', { host: 'localhost:8000', origin: 'http://evil.example' }, 403],
    ['a page of another port', { host: 'localhost:8000', origin: 'http://localhost:1' }, 403],
  ])('without a token: this machine, as %s', async (_, more, status) => {
    const given = named({ path: 'b.mp4' });
    expect((await post(await make(), { ...given, headers: { ...given.headers, ...more } })).status).toBe(status);
  });

  test('with one: whoever has it, and without it only what tells of no video', async () => {
    const made = await make({}, TOKEN);
    const statusOf = async (url: string, authorization?: string) => {
      const headers = { host: 'far.example', ...(authorization ? { authorization } : {}) };
      return (await ask(made, url, { headers })).status;
    };
    expect(await statusOf('/metrics')).toBe(401);
    expect(await statusOf('/metrics', `Bearer ${TOKEN}x`)).toBe(401);
    expect(await statusOf('/metrics', `Basic ${TOKEN}`)).toBe(401);
    expect(await statusOf('/metrics', `Bearer ${TOKEN}`)).toBe(200);
    expect(await statusOf('/?x=1')).toBe(200);
    expect(await statusOf('/openapi.json')).toBe(200);
    expect(await statusOf('/healthz')).toBe(503);
    expect(await statusOf('/predict')).toBe(401);
  });

  test('a server that others reach always has one: a given one or a new one', () => {
    expect(chooseToken('127.0.0.1', undefined)).toEqual({ token: null, isNew: false });
    const made = ['0.0.0.0', '::', '192.168.1.2', 'localhost.example', '128.0.0.1'].map((host) =>
      chooseToken(host, undefined),
    );
    expect(made.every(({ token, isNew }) => isNew && (token ?? '').length === 32)).toBe(true);
    expect(new Set(made.map(({ token }) => token)).size).toBe(made.length);
    const file = join(ROOT, 'token');
    writeFileSync(file, `${TOKEN}\n`);
    expect(chooseToken('::1', file)).toEqual({ token: TOKEN, isNew: false });
    writeFileSync(file, 'short\n');
    expect(problemsOf(() => chooseToken('127.0.0.1', file))).toEqual([
      expect.stringMatching(/token {2}holds a token of 5 .* 16 or more/),
    ]);
    writeFileSync(file, 'two words in one file\n');
    expect(problemsOf(() => chooseToken('127.0.0.1', file))).toEqual([expect.stringMatching(/holds no token/)]);
  });
});

describe('what it says of itself', () => {
  test('a document of OpenAPI has every address, and every refusal by its status', async () => {
    const { openapi, paths } = JSON.parse((await ask(await make(), '/openapi.json')).text);
    expect(openapi).toBe('3.1.0');
    expect(Object.keys(paths)).toEqual(['/predict', '/healthz', '/metrics']);
    const { requestBody, responses } = paths['/predict'].post;
    expect(Object.keys(requestBody.content)).toEqual(['multipart/form-data', 'application/json']);
    expect(requestBody.content['application/json'].schema.properties.path.type).toBe('string');
    const statuses = new Set(Object.values(REFUSALS).map(({ status }) => String(status)));
    expect(Object.keys(responses)).toEqual(['200', ...statuses]);
    for (const one of Object.values(responses) as { content: Record<string, { schema: object }> }[])
      expect(one.content['application/json']?.schema).toMatchObject({ type: 'object' });
  });

  test('figures for Prometheus count by address and status', async () => {
    const made = await make();
    await post(made, named({ path: 'b.mp4' }));
    const { text: payload, headers } = await ask(made, '/metrics');
    expect(headers['content-type']).toMatch(/^text\/plain/);
    expect(payload).toMatch(/^coldframe_requests_total\{route="\/predict",status="404"\} 1$/m);
    expect(payload).toMatch(/^coldframe_worker_ready 0$/m);
    expect(payload).toMatch(/^coldframe_worker_restarts_total 0$/m);
  });
});

test('the folder for uploads is one of its own, which only its user reads; what a killed server left goes', () => {
  const parent = mkdtempSync(join(ROOT, 'tmp-'));
  const living = makeUploadFolder(parent);
  const left = `${living.folder.slice(0, -36)}${'0'.repeat(36)}`;
  mkdirSync(left);
  writeFileSync(join(left, 'a.mp4'), 'x');
  const next = makeUploadFolder(parent);
  const those = [living, next].flatMap(({ folder }) => [basename(folder), `${basename(folder)}.lock`]);
  expect(readdirSync(parent).sort()).toEqual(those.sort());
  expect(statSync(living.folder).mode & 0o777).toBe(0o700);
  for (const { remove } of [living, next]) remove();
  expect(readdirSync(parent)).toEqual([]);
});
